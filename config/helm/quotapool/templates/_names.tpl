{{/* Which values there are, and what a wrong name was meant to be. (The schema does not refuse unknown names, because it could
not say the nearest. A test compares this list with values.yaml and the schema.) */}}

{{/* Dotted; `.*`: whatever is below is passed on to Kubernetes or to the configuration. */}}
{{- define "quotapool.names" -}}
adminService.annotations.*
adminService.enabled
adminService.port
adminToken.existingSecret
adminToken.secretKey
affinity.*
autoscaling.behavior.*
autoscaling.cpu
autoscaling.enabled
autoscaling.maxReplicas
autoscaling.minReplicas
autoscaling.queueLength
autoscaling.requestsInFlight
clients.existingSecret
config.*
dashboards.annotations.*
dashboards.enabled
dashboards.labels.*
externalRedis.existingSecret
externalRedis.secretKey
extraEnv
extraEnvFrom
extraObjects
extraVolumeMounts
extraVolumes
fullnameOverride
global.*
image.digest
image.pullPolicy
image.repository
image.tag
imagePullSecrets
ingress.annotations.*
ingress.className
ingress.enabled
ingress.hosts
ingress.tls
keys.existingSecret
keys.secretKey
listenHost
livenessProbe.failureThreshold
livenessProbe.initialDelaySeconds
livenessProbe.periodSeconds
livenessProbe.successThreshold
livenessProbe.terminationGracePeriodSeconds
livenessProbe.timeoutSeconds
masterKey.existingSecret
masterKey.secretKey
mode
nameOverride
networkPolicy.clients
networkPolicy.egress
networkPolicy.enabled
networkPolicy.operators
nodeSelector.*
podAnnotations.*
podDisruptionBudget.enabled
podDisruptionBudget.maxUnavailable
podLabels.*
podMonitor.enabled
podMonitor.interval
podMonitor.labels.*
podMonitor.metricRelabelings
podMonitor.relabelings
podMonitor.scrapeTimeout
podSecurityContext.*
preStopSeconds
priorityClassName
prometheusRule.enabled
prometheusRule.labels.*
readinessProbe.failureThreshold
readinessProbe.initialDelaySeconds
readinessProbe.periodSeconds
readinessProbe.successThreshold
readinessProbe.terminationGracePeriodSeconds
readinessProbe.timeoutSeconds
replicaCount
resources.claims
resources.limits.*
resources.requests.*
securityContext.*
service.annotations.*
service.port
service.type
serviceAccount.annotations.*
serviceAccount.create
serviceAccount.name
sidecar.adminPort
sidecar.port
sizing.keys
sizing.models
sizing.trafficMiB
startupProbe.failureThreshold
startupProbe.initialDelaySeconds
startupProbe.periodSeconds
startupProbe.successThreshold
startupProbe.terminationGracePeriodSeconds
startupProbe.timeoutSeconds
state.sizeLimit
strategy.*
terminationGracePeriodSeconds
tmp.sizeLimit
tolerations
topologySpreadConstraints
valkey.affinity.*
valkey.enabled
valkey.existingSecret
valkey.image.pullPolicy
valkey.image.repository
valkey.image.tag
valkey.nodeSelector.*
valkey.priorityClassName
valkey.resources.claims
valkey.resources.limits.*
valkey.resources.requests.*
valkey.secretKey
valkey.storage.size
valkey.storage.storageClass
valkey.tolerations
{{- end }}

{{/* (dict "values" mapping "path" "a.b." "names" list): a line for each unknown name. */}}
{{- define "quotapool.unknown" -}}
{{- range $name, $value := .values -}}
{{- $path := printf "%s%s" $.path $name -}}
{{- $below := printf "%s." $path -}}
{{- $siblings := list -}}
{{- $children := list -}}
{{- range $.names -}}
{{- if hasPrefix $.path . -}}{{ $siblings = append $siblings (trimPrefix $.path . | splitList "." | first) }}{{- end -}}
{{- if hasPrefix $below . -}}{{ $children = append $children (trimPrefix $below .) }}{{- end -}}
{{- end -}}
{{- if not (has $name $siblings) }}
- there is no value {{ $path }}; the nearest is {{ $.path }}{{ include "quotapool.nearest" (list $name (uniq $siblings)) }}
{{- else if and (kindIs "map" $value) $children (not (has "*" $children)) -}}
{{ include "quotapool.unknown" (dict "values" $value "path" $below "names" $.names) }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* (list values names): a line for each group of values without its defaults, as `keys:` with nothing below leaves it. */}}
{{- define "quotapool.emptied" -}}
{{- $values := index . 0 -}}
{{- range index . 1 -}}
{{- $at := $values -}}
{{- $path := list -}}
{{- range splitList "." . | initial -}}
{{- $path = append $path . -}}
{{- $at = get $at . -}}
{{- if not (or (kindIs "map" $at) (eq . "global")) }}
- {{ join "." $path }} has nothing below it: leave it out, or give one of its values
{{- break -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* (list name candidates): the candidate that shares most pairs of letters with the name, in proportion to their lengths. */}}
{{- define "quotapool.nearest" -}}
{{- $name := index . 0 | lower -}}
{{- $best := dict "score" -1.0 -}}
{{- range $candidate := index . 1 -}}
{{- $shared := 0.0 -}}
{{- range $at := until (max 0 (sub (len $name) 1) | int) -}}
{{- if contains (substr $at (int (add $at 2)) $name) (lower $candidate) }}{{ $shared = addf $shared 1.0 }}{{ end -}}
{{- end -}}
{{- $score := divf $shared (float64 (add (len $name) (len $candidate))) -}}
{{- if gt $score (get $best "score") }}{{ $_ := set $best "score" $score }}{{ $_ := set $best "name" $candidate }}{{ end -}}
{{- end -}}
{{ get $best "name" }}
{{- end }}
