{{/* Name of the release's objects: the release's, with the chart's where that is not in it. */}}
{{- define "flotilla.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "flotilla.operator" -}}
{{ include "flotilla.fullname" . }}-operator
{{- end -}}

{{- define "flotilla.control" -}}
{{ include "flotilla.fullname" . }}-control
{{- end -}}

{{/* Name of the MutatingWebhookConfiguration. */}}
{{- define "flotilla.sidecars" -}}
{{ include "flotilla.fullname" . }}-sidecars
{{- end -}}

{{- define "flotilla.selector" -}}
app.kubernetes.io/name: flotilla
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "flotilla.labels" -}}
{{ include "flotilla.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Reference to an image; takes a list of the image's values and the chart's version. */}}
{{- define "flotilla.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default (index . 1) }}
{{- end -}}
{{- end -}}

{{/* Number that a quantity such as 64Mi stands for. */}}
{{- define "flotilla.amount" -}}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 -}}
{{- $text := toString . -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[A-Za-z]+$" $text)) -}}
{{- end -}}

{{/* A map as a=b,c=d. */}}
{{- define "flotilla.pairs" -}}
{{- $pairs := list -}}
{{- range $name, $value := . -}}
{{- $pairs = append $pairs (printf "%s=%s" $name $value) -}}
{{- end -}}
{{ join "," $pairs }}
{{- end -}}

{{/* Seconds that a duration such as 500ms, 15s, 1m or 1h stands for. */}}
{{- define "flotilla.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 -}}
{{- mulf (regexFind "^[0-9]+" . | float64) (get $units (regexFind "[a-z]+$" .)) -}}
{{- end -}}

{{/* Seconds between two samples of a pod in Prometheus: what is said, else the monitors' interval; "" where neither is. */}}
{{- define "flotilla.scrapeSeconds" -}}
{{- $said := .Values.prometheus.scrapeInterval | default "" -}}
{{- $monitor := .Values.metrics.podMonitor -}}
{{- if $monitor.enabled -}}
{{- $seconds := include "flotilla.seconds" $monitor.interval | float64 -}}
{{- if and $said (gt $seconds (include "flotilla.seconds" $said | float64)) -}}
{{- fail (printf "metrics.podMonitor.interval (%s) is longer than prometheus.scrapeInterval (%s): most rates would be unknown" $monitor.interval $said) -}}
{{- end -}}
{{- if gt $seconds 60.0 -}}
{{- fail (printf "metrics.podMonitor.interval (%s) is longer than 60s: autoscaling needs samples at least once a minute" $monitor.interval) -}}
{{- end -}}
{{- if not $said }}{{ max 1 ($seconds | ceil) }}{{ end -}}
{{- end -}}
{{- with $said }}{{ include "flotilla.seconds" . }}{{ end -}}
{{- end -}}

{{/*
Sources of the volume with what Prometheus wants to be shown; nothing where it wants nothing. Here and in deployment.yaml
any value may be absent: with --reuse-values the defaults are those of a release that did not have it.
*/}}
{{- define "flotilla.prometheusSources" -}}
{{- with .Values.prometheus -}}
{{- if and (.bearerTokenSecret).name (.basicAuthSecret).name -}}
{{- fail "prometheus.bearerTokenSecret and prometheus.basicAuthSecret exclude each other" -}}
{{- end -}}
{{- with .bearerTokenSecret }}{{ if .name }}
- secret: {name: {{ .name }}, items: [{key: {{ .key | default "token" | quote }}, path: token}]}
{{- end }}{{ end -}}
{{- with .basicAuthSecret }}{{ if .name }}
- secret:
    name: {{ .name }}
    items:
      - {key: {{ .usernameKey | default "username" | quote }}, path: username}
      - {key: {{ .passwordKey | default "password" | quote }}, path: password}
{{- end }}{{ end -}}
{{- with .caSecret }}{{ if .name }}
- secret: {name: {{ .name }}, items: [{key: {{ .key | default "ca.crt" | quote }}, path: ca.crt}]}
{{- end }}{{ end -}}
{{- end -}}
{{- end -}}
