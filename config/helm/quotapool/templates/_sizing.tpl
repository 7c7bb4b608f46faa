{{/* How much memory and space, by keys and models: the formula of docs/operations.md, "How much memory".

`quotapool.sizing` is YAML, in MiB: limit, request (what is resident with traffic at rest), tmp, state; store, storeLimit,
storeRequest for a Valkey. Read it with fromYaml. */}}
{{- define "quotapool.sizing" -}}
{{- $keys := float64 .Values.sizing.keys -}}
{{- $models := float64 .Values.sizing.models -}}
{{- $workers := float64 (.Values.config.workers | default 1) -}}
{{- $metrics := get .Values.config "metrics" | default dict -}}
{{- /* Series of tokens_total and upstream_attempts_total. By account there are at most as many as by key. */ -}}
{{- $series := mulf 6.0 $models (ternary 1.0 $keys (eq ($metrics.detail | default "key") "pool")) -}}
{{- $cache := include "quotapool.cacheMiB" . | float64 -}}
{{- /* Answers on their way to the store; those that it keeps are the store's. */ -}}
{{- $underWay := ternary 32.0 0.0 (gt $cache 0.0) -}}
{{- $supervisor := addf 90.0 (mulf 0.006 $keys) -}}
{{- $worker := addf 75.0 (mulf 0.006 $keys) (mulf 0.001 $series) $underWay -}}
{{- $files := mulf $workers (addf 1.0 (mulf 0.00025 $series)) -}}
{{- /* With the usage in time of every pair of key and model, 210 MiB at most. */ -}}
{{- $store := addf 10.0 (mulf 0.001 $keys $models) (minf 210.0 (mulf 0.3 $keys $models)) $cache -}}
{{- $embedded := ternary 0.0 $store (eq (include "quotapool.sharedStore" .) "true") -}}
{{- $resident := addf $supervisor (mulf $workers $worker) $files $embedded -}}
limit: {{ include "quotapool.upTo" (list 32.0 (addf (mulf 1.5 $resident) (float64 .Values.sizing.trafficMiB))) }}
request: {{ include "quotapool.upTo" (list 32.0 $resident) }}
tmp: {{ include "quotapool.upTo" (list 16.0 (mulf 2.0 $files)) }}
state: {{ include "quotapool.upTo" (list 64.0 (addf 64.0 (mulf 3.0 $embedded))) }}
storeLimit: {{ include "quotapool.upTo" (list 32.0 (mulf 2.0 $store)) }}
storeRequest: {{ include "quotapool.upTo" (list 32.0 $store) }}
{{- end }}

{{/* What the cache of answers may hold: 0 without one. Sizes are written as in the configuration: 512KiB, 1GB, a number of bytes. */}}
{{- define "quotapool.cacheMiB" -}}
{{- $cache := get .Values.config "cache" | default dict -}}
{{- $size := get $cache "max_size" | default "256MiB" -}}
{{- if kindIs "float64" $size -}}{{- $size = printf "%.0f" $size -}}{{- end -}}
{{- $size = toString $size | lower | replace " " "" -}}
{{- $unit := regexFind "[a-z]*$" $size -}}
{{- $bytes := get (dict "" 1.0 "b" 1.0 "kib" 1024.0 "mib" 1048576.0 "gib" 1073741824.0 "kb" 1e3 "mb" 1e6 "gb" 1e9) $unit | default 1.0 -}}
{{- if $cache.models -}}{{ divf (mulf (trimSuffix $unit $size | float64) $bytes) 1048576.0 }}{{- else -}}0{{- end -}}
{{- end }}

{{/* (list step number): the number, rounded up to a multiple of the step. */}}
{{- define "quotapool.upTo" -}}
{{- $step := index . 0 -}}
{{ mulf (ceil (divf (index . 1) $step)) $step | int }}
{{- end }}

{{/* (list resources limit request): resources with memory where it is not given, in MiB. */}}
{{- define "quotapool.resources" -}}
{{- $given := index . 0 -}}
{{- $limits := merge (dict) ($given.limits | default dict) (dict "memory" (printf "%vMi" (index . 1))) -}}
{{- $requests := merge (dict) ($given.requests | default dict) (dict "memory" (printf "%vMi" (index . 2))) -}}
{{ merge (dict "limits" $limits "requests" $requests) $given | toYaml }}
{{- end }}
