package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Push uploads an image to the registry at address by the OCI distribution protocol: each blob
// in one request, then the manifest under the tag, which is a repository and a version
// (petiole/web:1).
func Push(ctx context.Context, address, tag string, image v1.Image) error {
	repository, version, _ := strings.Cut(tag, ":")
	base := "http://" + address + "/v2/" + repository
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return err
		}
		content, err := l.Compressed()
		if err != nil {
			return err
		}
		err = send(ctx, http.MethodPost, base+"/blobs/uploads/?digest="+digest.String(), "application/octet-stream", content)
		if err != nil {
			return err
		}
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	digest, err := image.ConfigName()
	if err != nil {
		return err
	}
	err = send(ctx, http.MethodPost, base+"/blobs/uploads/?digest="+digest.String(), "application/octet-stream", bytes.NewReader(config))
	if err != nil {
		return err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return err
	}
	mediaType, err := image.MediaType()
	if err != nil {
		return err
	}
	return send(ctx, http.MethodPut, base+"/manifests/"+version, string(mediaType), bytes.NewReader(manifest))
}

func send(ctx context.Context, method, url, contentType string, body io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000)) // it is part of an error already
		return fmt.Errorf("%s %s: %s: %s", method, url, answer.Status, text)
	}
	return nil
}
