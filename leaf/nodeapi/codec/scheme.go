package codec

import (
	"encoding/json"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// scheme holds the types that are served in protobuf and accept strategic merge patches. It
// saves some megabytes compared with client-go's scheme.
var (
	scheme     = newScheme()
	protoCodec = protobuf.NewSerializer(scheme, scheme)
)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, coordinationv1.AddToScheme, storagev1.AddToScheme, nodev1.AddToScheme,
		discoveryv1.AddToScheme, networkingv1.AddToScheme, rbacv1.AddToScheme, certificatesv1.AddToScheme, resourcev1.AddToScheme,
		authenticationv1.AddToScheme, authorizationv1.AddToScheme,
	} {
		utilruntime.Must(add(s))
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}

// Typed decodes JSON into the Go type of kind.
func Typed(kind schema.GroupVersionKind, data []byte) (runtime.Object, error) {
	obj, err := scheme.New(kind)
	if err != nil {
		return nil, err
	}
	if err := utiljson.Unmarshal(data, obj); err != nil {
		return nil, fmt.Errorf("decode %s: %w", kind.Kind, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(kind)
	return obj, nil
}

// fromProto decodes a protobuf body and returns it as JSON.
func fromProto(data []byte, kind schema.GroupVersionKind) ([]byte, error) {
	obj, _, err := protoCodec.Decode(data, &kind, nil)
	if err != nil {
		return nil, err
	}
	return json.Marshal(obj)
}
