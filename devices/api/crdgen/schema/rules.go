package schema

import (
	"fmt"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// rules has the validation of fields (Type.jsonName) that their Go types cannot express.
// Everything that KubeEdge accepts and supports is valid here, too.
var rules = map[string]func(*apiext.JSONSchemaProps){
	"ModelProperty.name":            named,
	"ModelProperty.type":            enum("INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "BYTES", "STREAM"),
	"ModelProperty.accessMode":      enum("ReadWrite", "ReadOnly"),
	"ModelProperty.minimum":         number,
	"ModelProperty.maximum":         number,
	"DeviceProperty.name":           named,
	"DeviceProperty.collectCycle":   upTo(nil),
	"DeviceProperty.reportCycle":    upTo(nil),
	"DeviceStateReport.reportCycle": upTo(nil),
	"DeviceMethod.name":             named,
	"PushMethodHTTP.port":           upTo(new(65535.0)),
	"PushMethodHTTP.timeout":        upTo(nil),
	"PushMethodMQTT.qos":            upTo(new(2.0)),
	"DeviceSpec.nodeName":           node,
	"DeviceSpec.properties":         byName,
	"DeviceModelSpec.properties":    byName,
}

// maxProperties bounds the cost of the rules on properties; a device with that many is as
// large as an object in etcd can be.
const maxProperties = 10_000

// validations has the CEL rules of types (KEP-2876), which concern several fields.
var validations = map[string]apiext.ValidationRules{
	"ModelProperty": {{
		Rule:    "!has(self.minimum) || !has(self.maximum) || self.minimum == '' || self.maximum == '' || double(self.minimum) <= double(self.maximum)",
		Message: "must not be more than maximum", FieldPath: ".minimum",
	}},
}

func enum(values ...string) func(*apiext.JSONSchemaProps) {
	return func(p *apiext.JSONSchemaProps) {
		for _, v := range values {
			p.Enum = append(p.Enum, apiext.JSON{Raw: fmt.Appendf(nil, "%q", v)})
		}
	}
}

// upTo requires a number from zero to high; nil: no upper bound.
func upTo(high *float64) func(*apiext.JSONSchemaProps) {
	return func(p *apiext.JSONSchemaProps) { p.Minimum, p.Maximum = new(0.0), high }
}

// number requires a decimal number in string form, or an empty string.
func number(p *apiext.JSONSchemaProps) {
	p.MaxLength = new(int64(64))
	p.Pattern = `^([-+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][-+]?[0-9]{1,3})?)?$`
}

// named requires a name that is not empty.
func named(p *apiext.JSONSchemaProps) { p.MinLength = new(int64(1)) }

// node requires the name of a Node (RFC 1123 subdomain), or an empty string.
func node(p *apiext.JSONSchemaProps) {
	p.MaxLength = new(int64(253))
	p.Pattern = `^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$`
}

// byName requires unique names in a list, and bounds its length.
func byName(p *apiext.JSONSchemaProps) {
	list := "map"
	p.XListType, p.XListMapKeys, p.MaxItems = &list, []string{"name"}, new(int64(maxProperties))
	p.Items.Schema.Required = append(p.Items.Schema.Required, "name")
}
