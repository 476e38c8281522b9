{{- define "meshrollout.labels" -}}
app.kubernetes.io/name: meshrollout
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "meshrollout.selector" -}}
app.kubernetes.io/name: meshrollout
app.kubernetes.io/component: operator
{{- end }}

{{- define "meshrollout.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:meshrollout
{{- end }}

{{- define "meshrollout.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The operator's configuration file, whole. */}}
{{- define "meshrollout.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "operatorNamespace" .Release.Namespace -}}
{{- if .Values.allowShortTimes -}}
{{- $_ := set $config "allowShortTimes" true -}}
{{- end -}}
{{- if not .Values.fence.enabled -}}
{{- $_ := set $config "fence" false -}}
{{- end -}}
{{- if .Values.proxyState.enabled -}}
{{- $_ := set $config "proxyState" (dict "tokenFile" "/var/run/secrets/tokens/istio-token" "namespaces" .Values.proxyState.namespaces) -}}
{{- end -}}
{{ toYaml $config }}
{{- end }}

{{/* The way to an address, inside the cluster and out of it. */}}
{{- define "meshrollout.egress" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) -}}
- to:
  - namespaceSelector: {}
- ports:
  - port: {{ $port | default (ternary "443" "80" (eq $url.scheme "https")) }}
{{- end }}
