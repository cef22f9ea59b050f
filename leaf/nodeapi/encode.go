package nodeapi

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/munnerz/goautoneg"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/petiole-io/petiole/leaf/nodeapi/objects"
)

// media is an encoding of responses.
type media int

const (
	mediaNone media = iota
	mediaJSON
	mediaProto
	mediaTable
)

const (
	jsonType  = runtime.ContentTypeJSON
	protoType = runtime.ContentTypeProtobuf
)

// accepted returns the most preferred encoding of an Accept header that can be served:
// protobuf for known types only, tables only if table is set.
func accepted(header string, kind schema.GroupVersionKind, table bool) media {
	if header == "" {
		return mediaJSON
	}
	for _, clause := range goautoneg.ParseAccept(header) {
		if clause.Q <= 0 { // not acceptable (RFC 9110, section 12.4.2)
			continue
		}
		name := strings.ToLower(clause.Type + "/" + clause.SubType)
		if as := clause.Params["as"]; as != "" {
			if table && as == "Table" && name == jsonType && clause.Params["g"] == metav1.GroupName && clause.Params["v"] == "v1" {
				return mediaTable
			}
			continue
		}
		switch {
		case name == protoType && scheme.Recognizes(kind):
			return mediaProto
		case name == jsonType, name == "application/*", name == "*/*":
			return mediaJSON
		}
	}
	return mediaNone
}

// encoded returns the object in an encoding. Concurrent callers share one copy.
func encoded(m media, o *objects.Object) ([]byte, error) {
	if m == mediaProto {
		return o.Encoded(toProto)
	}
	return o.JSON, nil
}

func toProto(o *objects.Object) ([]byte, error) {
	obj, err := typed(o.Kind, o.JSON)
	if err != nil {
		return nil, err
	}
	body, err := encodeTyped(mediaProto, obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", o.Kind.Kind, o.Key, err)
	}
	return body, nil
}

// writeObject writes an object.
func writeObject(w http.ResponseWriter, code int, m media, o *objects.Object) error {
	body, err := encoded(m, o)
	if err != nil {
		return err
	}
	return writeBody(w, code, m, body)
}

// writeTyped writes an object that has a Go type.
func writeTyped(w http.ResponseWriter, code int, m media, obj runtime.Object) error {
	body, err := encodeTyped(m, obj)
	if err != nil {
		return err
	}
	return writeBody(w, code, m, body)
}

func encodeTyped(m media, obj runtime.Object) ([]byte, error) {
	if m != mediaProto {
		return json.Marshal(obj)
	}
	var buf bytes.Buffer
	err := protoCodec.Encode(obj, &buf)
	return buf.Bytes(), err
}

func writeBody(w http.ResponseWriter, code int, m media, body []byte) error {
	w.Header().Set("Content-Type", map[bool]string{true: protoType, false: jsonType}[m == mediaProto])
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, err := w.Write(body)
	return err
}

// writeList writes a list. It does not assemble a JSON list in memory.
func writeList(w http.ResponseWriter, m media, r resource, found []*objects.Object, rv uint64) error {
	if m == mediaProto {
		return writeProtoList(w, r, found, rv)
	}
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(http.StatusOK)
	if _, err := fmt.Fprintf(w, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d"},"items":[`,
		r.kind+"List", r.GroupVersion().String(), rv); err != nil {
		return err
	}
	for i, o := range found {
		if i > 0 {
			if _, err := io.WriteString(w, ","); err != nil {
				return err
			}
		}
		if _, err := w.Write(o.JSON); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "]}\n")
	return err
}

func writeProtoList(w http.ResponseWriter, r resource, found []*objects.Object, rv uint64) error {
	kind := r.GroupVersion().WithKind(r.kind + "List")
	list, err := scheme.New(kind)
	if err != nil {
		return err
	}
	items := make([]runtime.Object, 0, len(found))
	for _, o := range found {
		item, err := typed(o.Kind, o.JSON)
		if err != nil {
			return err
		}
		items = append(items, item)
	}
	if err := meta.SetList(list, items); err != nil {
		return err
	}
	list.GetObjectKind().SetGroupVersionKind(kind)
	acc, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	acc.SetResourceVersion(strconv.FormatUint(rv, 10))
	return writeTyped(w, http.StatusOK, mediaProto, list)
}

// writeFrame writes a watch event with an encoded object.
func writeFrame(w io.Writer, m media, kind watch.EventType, object []byte) error {
	if m == mediaProto {
		body, err := (&metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: object}}).Marshal()
		if err != nil {
			return err
		}
		if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(body)))); err != nil {
			return err
		}
		_, err = w.Write(body)
		return err
	}
	if _, err := fmt.Fprintf(w, `{"type":%q,"object":`, string(kind)); err != nil {
		return err
	}
	if _, err := w.Write(object); err != nil {
		return err
	}
	_, err := io.WriteString(w, "}\n")
	return err
}

// bookmark returns the object of a BOOKMARK event, which has a kind and a resource version
// only.
func bookmark(m media, kind schema.GroupVersionKind, rv uint64, initialEnd bool) ([]byte, error) {
	pm := metav1.PartialObjectMetadata{}
	pm.SetGroupVersionKind(kind)
	pm.ResourceVersion = strconv.FormatUint(rv, 10)
	if initialEnd {
		pm.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	body, err := json.Marshal(&pm)
	if err != nil || m != mediaProto {
		return body, err
	}
	obj, err := typed(kind, body)
	if err != nil {
		return nil, err
	}
	return encodeTyped(m, obj)
}
