{{- define "petiole.image" -}}
{{- $tag := .image.tag | default .version -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}{{ else }}{{ .image.repository }}:{{ $tag }}{{ end -}}
{{- end }}

{{- define "petiole.labels" -}}
{app.kubernetes.io/name: petiole, app.kubernetes.io/component: {{ . }}}
{{- end }}

{{/* The configuration of the bridge: what the chart knows, under what the user has set. */}}
{{- define "petiole.bridgeConfig" -}}
{{- $nats := dict
  "urls" (list (printf "tls://hub.%s.svc:4222" .Release.Namespace))
  "credentialsFile" "/etc/petiole/nats/bridge.creds"
  "accounts" (dict
    "credentialsFile" "/etc/petiole/nats/accounts.creds"
    "operatorKeyFile" "/etc/petiole/nats/operator-signing.nk"
    "siteKeyFile" "/etc/petiole/nats/sites.nk")
  "caFile" "/etc/petiole/nats/ca.crt" -}}
{{- $config := dict "nats" $nats "metrics" (dict "listen" ":10442") -}}
{{- if ne .Release.Namespace "petiole-system" }}{{ $_ := set $config "leaderElection" (dict "namespace" .Release.Namespace) }}{{ end -}}
{{- if .Values.bridge.kubeletAPI }}
{{- $_ := set $config "kubeletAPI" (dict "listen" ":10250" "service" (printf "%s/kubelets" .Release.Namespace)) }}
{{- end -}}
{{- /* An empty value, which mergeOverwrite ignores, is one here: no authority of its own. */ -}}
{{- if eq (dig "nats" "caFile" "none" .Values.bridge.config) "" }}{{ $_ := unset $nats "caFile" }}{{ end -}}
{{- mergeOverwrite $config (deepCopy .Values.bridge.config) | toYaml -}}
{{- end }}
