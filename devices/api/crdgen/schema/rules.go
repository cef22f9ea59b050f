package schema

import (
	"fmt"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// rules says about a field (Type.jsonName) what its Go type cannot. What KubeEdge
// accepts and carries out is accepted here too.
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

// maxProperties bounds the cost of the rules on properties; a device of that many fills
// the largest object that etcd takes.
const maxProperties = 10_000

// validations are the CEL rules of types (KEP-2876): what concerns several fields.
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

// upTo asks for a number from zero to high, where there is a bound.
func upTo(high *float64) func(*apiext.JSONSchemaProps) {
	return func(p *apiext.JSONSchemaProps) { p.Minimum, p.Maximum = new(0.0), high }
}

// number is a decimal number in string form, or empty.
func number(p *apiext.JSONSchemaProps) {
	p.MaxLength = new(int64(64))
	p.Pattern = `^([-+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][-+]?[0-9]{1,3})?)?$`
}

// named asks for a name that is not empty.
func named(p *apiext.JSONSchemaProps) { p.MinLength = new(int64(1)) }

// node is the name of a Node (RFC 1123 subdomain), or empty.
func node(p *apiext.JSONSchemaProps) {
	p.MaxLength = new(int64(253))
	p.Pattern = `^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$`
}

// byName makes names unique in a list, and bounds it.
func byName(p *apiext.JSONSchemaProps) {
	list := "map"
	p.XListType, p.XListMapKeys, p.MaxItems = &list, []string{"name"}, new(int64(maxProperties))
	p.Items.Schema.Required = append(p.Items.Schema.Required, "name")
}
