package codec

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

// Media is an encoding of responses.
type Media int

// The encodings. None stands for an Accept header that names none of the others.
const (
	None Media = iota
	JSON
	Protobuf
	Table
)

// The content types of JSON and Protobuf.
const (
	TypeJSON     = runtime.ContentTypeJSON
	TypeProtobuf = runtime.ContentTypeProtobuf
)

// Accepted returns the most preferred encoding of an Accept header that can be served:
// protobuf for known types only, tables only if table is set.
func Accepted(header string, kind schema.GroupVersionKind, table bool) Media {
	if header == "" {
		return JSON
	}
	for _, clause := range goautoneg.ParseAccept(header) {
		if clause.Q <= 0 { // not acceptable (RFC 9110, section 12.4.2)
			continue
		}
		name := strings.ToLower(clause.Type + "/" + clause.SubType)
		if as := clause.Params["as"]; as != "" {
			if table && as == "Table" && name == TypeJSON && clause.Params["g"] == metav1.GroupName && clause.Params["v"] == "v1" {
				return Table
			}
			continue
		}
		switch {
		case name == TypeProtobuf && scheme.Recognizes(kind):
			return Protobuf
		case name == TypeJSON, name == "application/*", name == "*/*":
			return JSON
		}
	}
	return None
}

// Encoded returns the object in an encoding. Concurrent callers share one copy.
func Encoded(m Media, o *objects.Object) ([]byte, error) {
	if m == Protobuf {
		return o.Encoded(toProto)
	}
	return o.JSON, nil
}

func toProto(o *objects.Object) ([]byte, error) {
	obj, err := Typed(o.Kind, o.JSON)
	if err != nil {
		return nil, err
	}
	body, err := EncodeTyped(Protobuf, obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", o.Kind.Kind, o.Key, err)
	}
	return body, nil
}

// WriteObject writes an object.
func WriteObject(w http.ResponseWriter, code int, m Media, o *objects.Object) error {
	body, err := Encoded(m, o)
	if err != nil {
		return err
	}
	return writeBody(w, code, m, body)
}

// WriteTyped writes an object that has a Go type.
func WriteTyped(w http.ResponseWriter, code int, m Media, obj runtime.Object) error {
	body, err := EncodeTyped(m, obj)
	if err != nil {
		return err
	}
	return writeBody(w, code, m, body)
}

// EncodeTyped returns an object that has a Go type in an encoding.
func EncodeTyped(m Media, obj runtime.Object) ([]byte, error) {
	if m != Protobuf {
		return json.Marshal(obj)
	}
	var buf bytes.Buffer
	err := protoCodec.Encode(obj, &buf)
	return buf.Bytes(), err
}

func writeBody(w http.ResponseWriter, code int, m Media, body []byte) error {
	w.Header().Set("Content-Type", map[bool]string{true: TypeProtobuf, false: TypeJSON}[m == Protobuf])
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, err := w.Write(body)
	return err
}

// WriteList writes a list of objects of a kind. It does not assemble a JSON list in memory.
func WriteList(w http.ResponseWriter, m Media, kind schema.GroupVersionKind, found []*objects.Object, rv uint64) error {
	listKind := kind.GroupVersion().WithKind(kind.Kind + "List")
	if m == Protobuf {
		return writeProtoList(w, listKind, found, rv)
	}
	w.Header().Set("Content-Type", TypeJSON)
	w.WriteHeader(http.StatusOK)
	if _, err := fmt.Fprintf(w, `{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d"},"items":[`,
		listKind.Kind, kind.GroupVersion().String(), rv); err != nil {
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

func writeProtoList(w http.ResponseWriter, kind schema.GroupVersionKind, found []*objects.Object, rv uint64) error {
	list, err := scheme.New(kind)
	if err != nil {
		return err
	}
	items := make([]runtime.Object, 0, len(found))
	for _, o := range found {
		item, err := Typed(o.Kind, o.JSON)
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
	return WriteTyped(w, http.StatusOK, Protobuf, list)
}

// WriteFrame writes a watch event with an encoded object.
func WriteFrame(w io.Writer, m Media, kind watch.EventType, object []byte) error {
	if m == Protobuf {
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

// Bookmark returns the object of a BOOKMARK event, which has a kind and a resource version
// only.
func Bookmark(m Media, kind schema.GroupVersionKind, rv uint64, initialEnd bool) ([]byte, error) {
	pm := metav1.PartialObjectMetadata{}
	pm.SetGroupVersionKind(kind)
	pm.ResourceVersion = strconv.FormatUint(rv, 10)
	if initialEnd {
		pm.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	body, err := json.Marshal(&pm)
	if err != nil || m != Protobuf {
		return body, err
	}
	obj, err := Typed(kind, body)
	if err != nil {
		return nil, err
	}
	return EncodeTyped(m, obj)
}
