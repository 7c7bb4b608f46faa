{{/* quotapool.yaml, as it is mounted. */}}

{{/* The configuration as a mapping: `config`, and what follows from other values. */}}
{{- define "quotapool.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.keys.existingSecret -}}
{{- $_ := set $config "keys_file" "/run/secrets/quotapool/keys" -}}
{{- end -}}
{{- if .Values.masterKey.existingSecret -}}
{{- $_ := set $config "master_key_file" "/run/secrets/quotapool/master-key" -}}
{{- end -}}
{{- if .Values.valkey.enabled -}}
{{- $_ := set $config "redis" (printf "redis://:${VALKEY_PASSWORD}@%s-valkey:6379/0" (include "quotapool.fullname" .)) -}}
{{- end -}}
{{- if .Values.adminService.enabled -}}
{{- /* Under these names the operators' port is asked; it refuses others, which foreign web pages may have made up. */ -}}
{{- $name := printf "%s-admin" (include "quotapool.fullname" .) -}}
{{- $names := list $name -}}
{{- range tuple "" ".svc" ".svc.cluster.local" -}}
{{- $names = append $names (printf "%s.%s%s" $name $.Release.Namespace .) -}}
{{- end -}}
{{- $_ := set $config "allowed_hosts" (concat ($config.allowed_hosts | default list) $names | uniq) -}}
{{- end -}}
{{ toYaml $config }}
{{- end }}

{{/* The options that a reload does not change: a change of these, and only these, has to restart the pods. */}}
{{- define "quotapool.restartOptions" -}}
admin_listen admin_token ca_file listen log on_redis_loss pool redis state_dir store_patience workers
{{- end }}

{{- define "quotapool.restartChecksum" -}}
{{- $config := include "quotapool.config" . | fromYaml -}}
{{- $restart := dict "tls" (not (not $config.tls)) -}}
{{- range splitList " " (include "quotapool.restartOptions" .) -}}
{{- if hasKey $config . }}{{ $_ := set $restart . (get $config .) }}{{ end -}}
{{- end -}}
{{ toJson $restart | sha256sum }}
{{- end }}
