{{/* What would go wrong later is refused now: all of it at once, each with its remedy. */}}

{{- define "quotapool.check" -}}
{{- $names := include "quotapool.names" . | splitList "\n" | compact -}}
{{- $unknown := include "quotapool.unknown" (dict "values" .Values "path" "" "names" $names) -}}
{{- $problems := printf "%s%s" $unknown (include "quotapool.emptied" (list .Values $names)) | splitList "\n" | compact | uniq -}}
{{- if $problems }}{{ fail (printf "\n\n%s\n" (join "\n" $problems)) }}{{ end -}}
{{- $problems = include "quotapool.problems" . | splitList "\n" | compact -}}
{{- if $problems }}{{ fail (printf "\n\n%s\n" (join "\n" $problems)) }}{{ end -}}
{{- end }}

{{- define "quotapool.problems" -}}
{{- $config := .Values.config -}}
{{- $shared := eq (include "quotapool.sharedStore" .) "true" -}}
{{- $many := gt (int (include "quotapool.mostReplicas" .)) 1 -}}
{{- $isService := eq .Values.mode "deployment" -}}

{{- range tuple "listen" "admin_listen" "state_dir" -}}
{{- if hasKey $config . }}
- config.{{ . }} is set by the chart; leave it out (listenHost, service, adminService and sidecar are what can be chosen)
{{- end -}}
{{- end -}}
{{- range $option, $value := dict "keys_file" "keys" "master_key_file" "masterKey" -}}
{{- if and (hasKey $config $option) (get $.Values $value).existingSecret }}
- config.{{ $option }} and {{ $value }}.existingSecret are both given; leave out one
{{- end -}}
{{- end -}}

{{- if not (or .Values.keys.existingSecret (kindIs "slice" $config.keys) $config.keys_file (include "quotapool.variable" (list . "OPENAI_API_KEYS")) .Values.extraEnvFrom) }}
- there are no OpenAI keys: kubectl create secret generic quotapool-keys --from-file={{ .Values.keys.secretKey }}=keys.txt, and keys.existingSecret: quotapool-keys (or config.keys: [], if all keys are added at run time)
{{- end -}}
{{- if and $isService (not (or $config.allow_anonymous (kindIs "slice" $config.clients) (include "quotapool.variable" (list . "QUOTAPOOL_CLIENTS")))) }}
- nobody could call: name clients under config.clients, by key_hash, or by key: ${NAME} with NAME in clients.existingSecret (or config.allow_anonymous: true, on a network that you trust; or config.clients: [], if the store has them)
{{- end -}}

{{- if and $isService $many (not $shared) }}
- {{ include "quotapool.mostReplicas" . }} replicas need a shared store, or each would spend the whole budget of every key: valkey.enabled, externalRedis.existingSecret or config.redis
{{- end -}}
{{- $stores := list (ternary "valkey.enabled" "" .Values.valkey.enabled) (ternary "externalRedis.existingSecret" "" (not (not .Values.externalRedis.existingSecret))) (ternary "config.redis" "" (not (not $config.redis))) (include "quotapool.variable" (list . "QUOTAPOOL_REDIS")) | compact -}}
{{- if gt (len $stores) 1 }}
- {{ join " and " $stores }} are each a store; leave one
{{- end -}}
{{- if and .Values.valkey.enabled (not .Values.valkey.existingSecret) }}
- valkey.enabled needs a password: kubectl create secret generic quotapool-valkey --from-literal={{ .Values.valkey.secretKey }}="$(openssl rand -hex 24)", and valkey.existingSecret: quotapool-valkey
{{- end -}}
{{- if and $isService $many .Values.adminService.enabled (not .Values.adminToken.existingSecret) (not (include "quotapool.variable" (list . "QUOTAPOOL_ADMIN_TOKEN"))) }}
- adminService with several replicas needs adminToken.existingSecret: each pod would have a token of its own
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.podMonitor.enabled (not .Values.networkPolicy.operators) }}
- networkPolicy keeps Prometheus out, which podMonitor sends to the operators' port: name it in networkPolicy.operators
{{- end -}}
{{- if and $isService .Values.networkPolicy.enabled $shared (not .Values.valkey.enabled) (not .Values.networkPolicy.egress) }}
- networkPolicy lets no pod reach the store: name it in networkPolicy.egress, a list of egress rules
{{- end -}}
{{- if not $isService -}}
{{- range tuple "ingress" "adminService" "networkPolicy" "autoscaling" -}}
{{- if (get $.Values .).enabled }}
- {{ . }}.enabled does nothing with mode: sidecar; leave it out
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
- ingress.enabled needs ingress.hosts: [{host: llm.example.com}]
{{- end -}}

{{- with .Values.autoscaling -}}
{{- if and .enabled (not (or .queueLength .requestsInFlight .cpu)) }}
- autoscaling needs one of queueLength, requestsInFlight and cpu
{{- end -}}
{{- if and .enabled (gt .minReplicas .maxReplicas) }}
- autoscaling.minReplicas is more than maxReplicas
{{- end -}}
{{- end -}}

{{- with get $config "drain_timeout" -}}
{{- if not (include "quotapool.seconds" .) }}
- config.drain_timeout must be a duration such as 25s: the grace period is computed from it
{{- end -}}
{{- end -}}
{{- if not (kindIs "map" (get $config "metrics" | default dict)) }}
- config.metrics must be a mapping (lines of name: value)
{{- end -}}
{{- with get $config "workers" -}}
{{- if not (regexMatch "^[0-9]+$" (toString .)) }}
- config.workers must be a number: the memory limit is computed from it
{{- end -}}
{{- end -}}
{{ include "quotapool.secrets" (dict "value" $config "path" "config" "name" "") }}
{{- end }}

{{/* A line for each secret that is written into the configuration, where everybody who may read the ConfigMap would see it. */}}
{{- define "quotapool.secrets" -}}
{{- if kindIs "map" .value -}}
{{- range $name, $value := omit .value "labels" }}{{ include "quotapool.secrets" (dict "value" $value "path" (printf "%s.%s" $.path $name) "name" $name) }}{{ end -}}
{{- else if kindIs "slice" .value -}}
{{- range $at, $value := .value }}{{ include "quotapool.secrets" (dict "value" $value "path" (printf "%s[%d]" $.path $at) "name" $.name) }}{{ end -}}
{{- else if .value -}}
{{- $text := toString .value -}}
{{- $isSecret := has .name (list "secret" "key" "admin_token" "master_key" "session_key" "client_secret") -}}
{{- if and (not (contains "${" $text)) (or $isSecret (regexMatch "hooks[.]slack[.]com|/api/webhooks/|/hook/|[?&](key|access_token)=" $text) (regexMatch "://[^/?#]*:[^/?#]+@" $text) (regexMatch "(^|[^A-Za-z0-9_-])sk-[A-Za-z0-9_-]{16,}" $text)) }}
- {{ .path }} is a secret, and would be in the ConfigMap: write ${NAME}, and give NAME with extraEnv, extraEnvFrom or clients.existingSecret
{{- end -}}
{{- end -}}
{{- end }}
