{{/* Names, labels and durations. */}}

{{- define "quotapool.fullname" -}}
{{- /* 40: a StatefulSet adds 18 characters (-valkey and its revision) in a label, which holds 63. */ -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{ ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* What selects pods: never changes between releases of one name. */}}
{{- define "quotapool.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "quotapool.labels" -}}
{{ include "quotapool.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The label of every pod that runs this pool's proxy, as a service or as a sidecar: the store admits it, and the PodMonitor
finds it. */}}
{{- define "quotapool.podLabels" -}}
quotapool.store/client: {{ include "quotapool.fullname" . }}
{{- end }}

{{- define "quotapool.serviceAccountName" -}}
{{- $default := ternary (include "quotapool.fullname" .) "default" .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default $default }}
{{- end }}

{{- define "quotapool.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* A duration of the configuration (25s, 1m30s, 500ms, 25) in whole seconds, rounded up; "" if it is none. */}}
{{- define "quotapool.seconds" -}}
{{- $text := toString . | lower | nospace -}}
{{- if regexMatch "^[0-9]+([.][0-9]+)?$" $text -}}
{{ $text | float64 | ceil }}
{{- else if regexMatch "^([0-9]+([.][0-9]+)?(ms|s|m|h|d))+$" $text -}}
{{- $total := 0.0 -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0 -}}
{{- range regexFindAll "[0-9.]+(ms|s|m|h|d)" $text -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $total = addf $total (mulf (trimSuffix $unit . | float64) (get $units $unit)) -}}
{{- end -}}
{{ ceil $total }}
{{- end -}}
{{- end }}

{{/* Whether the pods share a store. */}}
{{- define "quotapool.sharedStore" -}}
{{- if or .Values.valkey.enabled .Values.externalRedis.existingSecret .Values.config.redis (include "quotapool.variable" (list . "QUOTAPOOL_REDIS")) -}}
true
{{- end -}}
{{- end }}

{{/* The most pods that this release may run. */}}
{{- define "quotapool.mostReplicas" -}}
{{ ternary .Values.autoscaling.maxReplicas .Values.replicaCount .Values.autoscaling.enabled }}
{{- end }}

{{/* (list scope name): the name, if extraEnv sets this variable. */}}
{{- define "quotapool.variable" -}}
{{- $name := index . 1 -}}
{{- range (index . 0).Values.extraEnv }}{{ if eq .name $name }}{{ $name }}{{ break }}{{ end }}{{ end -}}
{{- end }}
