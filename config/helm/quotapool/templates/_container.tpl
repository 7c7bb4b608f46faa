{{/* The proxy's container and volumes, for the Deployment and for sidecars in other charts' pods.

In another chart that depends on this one (mode: sidecar), with `.Subcharts.quotapool` as the scope:
  labels:         {{- include "quotapool.podLabels" .Subcharts.quotapool | nindent … }}
  initContainers: {{- include "quotapool.sidecar" .Subcharts.quotapool | nindent … }}
  volumes:        {{- include "quotapool.volumes" .Subcharts.quotapool | nindent … }} */}}

{{- define "quotapool.sidecar" -}}
- name: quotapool
  restartPolicy: Always   # what makes an init container a sidecar: up before the app, down after it
{{- $host := ternary "[::1]" "127.0.0.1" (hasPrefix "[" .Values.listenHost) }}
{{ include "quotapool.container" (list . (printf "%s:%v" $host .Values.sidecar.port) .Values.sidecar.adminPort) | indent 2 }}
  ports:
    - {name: metrics, containerPort: {{ .Values.sidecar.adminPort }}}
{{- end }}

{{/* (list scope listen adminPort): what both containers have. */}}
{{- define "quotapool.container" -}}
{{- $listen := index . 1 }}
{{- $adminPort := index . 2 }}
{{- with index . 0 -}}
{{- $size := include "quotapool.sizing" . | fromYaml -}}
image: {{ include "quotapool.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve]
env:
  # Not as an argument, so that `kubectl exec … quotapool check` finds it, too.
  - {name: QUOTAPOOL_CONFIG, value: /etc/quotapool/quotapool.yaml}
  - {name: QUOTAPOOL_LISTEN, value: {{ $listen | quote }}}
  - {name: QUOTAPOOL_ADMIN_LISTEN, value: {{ printf "%s:%v" .Values.listenHost $adminPort | quote }}}
  - {name: QUOTAPOOL_STATE_DIR, value: /var/lib/quotapool}
  {{- with .Values.adminToken }}{{ if .existingSecret }}
  - name: QUOTAPOOL_ADMIN_TOKEN
    valueFrom:
      secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .secretKey | quote }}}
  {{- end }}{{ end }}
  {{- with .Values.externalRedis }}{{ if .existingSecret }}
  - name: QUOTAPOOL_REDIS
    valueFrom:
      secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .secretKey | quote }}}
  {{- end }}{{ end }}
  {{- with .Values.valkey }}{{ if .enabled }}
  - name: VALKEY_PASSWORD
    valueFrom:
      secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .secretKey | quote }}}
  {{- end }}{{ end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if or .Values.clients.existingSecret .Values.extraEnvFrom }}
envFrom:
  {{- with .Values.clients.existingSecret }}
  - secretRef: {name: {{ . | quote }}}
  {{- end }}
  {{- with .Values.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
startupProbe:
  httpGet: {path: /readyz, port: metrics}
  {{- toYaml .Values.startupProbe | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  {{- toYaml .Values.readinessProbe | nindent 2 }}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  {{- toYaml .Values.livenessProbe | nindent 2 }}
resources:
  {{- include "quotapool.resources" (list .Values.resources $size.limit $size.request) | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
volumeMounts:
  # Whole directories: a file that is mounted by subPath would never change.
  - {name: quotapool-config, mountPath: /etc/quotapool, readOnly: true}
  {{- if or .Values.keys.existingSecret .Values.masterKey.existingSecret }}
  - {name: quotapool-secrets, mountPath: /run/secrets/quotapool, readOnly: true}
  {{- end }}
  - {name: quotapool-state, mountPath: /var/lib/quotapool}
  - {name: quotapool-tmp, mountPath: /tmp}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "quotapool.volumes" -}}
{{- $size := include "quotapool.sizing" . | fromYaml -}}
- name: quotapool-config
  configMap: {name: {{ include "quotapool.fullname" . }}}
{{- if or .Values.keys.existingSecret .Values.masterKey.existingSecret }}
- name: quotapool-secrets
  projected:
    defaultMode: 0444   # no other container mounts it; an app's pod may have no fsGroup
    sources:
      {{- with .Values.keys }}{{ if .existingSecret }}
      - secret:
          name: {{ .existingSecret | quote }}
          items: [{key: {{ .secretKey | quote }}, path: keys}]
      {{- end }}{{ end }}
      {{- with .Values.masterKey }}{{ if .existingSecret }}
      - secret:
          name: {{ .existingSecret | quote }}
          items: [{key: {{ .secretKey | quote }}, path: master-key}]
      {{- end }}{{ end }}
{{- end }}
- name: quotapool-state
  emptyDir: {sizeLimit: {{ .Values.state.sizeLimit | default (printf "%vMi" $size.state) }}}
- name: quotapool-tmp
  emptyDir: {medium: Memory, sizeLimit: {{ .Values.tmp.sizeLimit | default (printf "%vMi" $size.tmp) }}}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
