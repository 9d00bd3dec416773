{{- define "tidegate.name" -}}
{{- if contains "tidegate" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-tidegate{{ end }}
{{- end }}

{{- /* Labels that never change in the life of a release. `component` is the process. */}}
{{- define "tidegate.selector" -}}
app.kubernetes.io/name: tidegate
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/part-of: tidegate
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "tidegate.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* A file for each secret: unlike a variable it is in no listing of the process. `dsn` is the key. */}}
{{- define "tidegate.environment" -}}
- name: TIDEGATE_POSTGRES__DSN_FILE
  value: /run/secrets/tidegate/{{ .dsn }}
- name: TIDEGATE_VALKEY__URL_FILE
  value: /run/secrets/tidegate/{{ .root.Values.secret.valkeyUrl }}
- name: TIDEGATE_SECRETS__MASTER_FILE
  value: /run/secrets/tidegate/{{ .root.Values.secret.masterKey }}
{{- with .root.Values.secret.brokerUrl }}
- name: TIDEGATE_BROKER__URL_FILE
  value: /run/secrets/tidegate/{{ . }}
{{- end }}
{{- with .heartbeat }}
- name: TIDEGATE_EXPORTER__HEARTBEAT_API_KEY_FILE
  value: /run/secrets/tidegate/{{ . }}
{{- end }}
{{- range $name, $value := .root.Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "tidegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tidegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "tidegate.mounts" -}}
- name: secrets
  mountPath: /run/secrets/tidegate
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- end }}

{{- /* Only the keys that this pod needs. */}}
{{- define "tidegate.volumes" -}}
- name: secrets
  secret:
    secretName: {{ .root.Values.secret.name }}
    defaultMode: 288  # 0440
    items:
      {{- $secret := .root.Values.secret }}
      {{- range compact (list .dsn $secret.valkeyUrl $secret.masterKey $secret.brokerUrl (.heartbeat | default "")) }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 16Mi
{{- end }}

{{- /* A pod that works as the owner of the database. `run` says what, where it is no command of ours. */}}
{{- define "tidegate.ownerPod" -}}
restartPolicy: {{ ternary "Always" "Never" (hasKey . "run") }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext: {{ include "tidegate.podSecurity" .root | nindent 2 }}
containers:
  - name: {{ .component }}
    image: {{ include "tidegate.image" .root }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    {{- if .run }}
    command: {{ toJson .run }}
    {{- else }}
    args: [{{ .component }}]
    {{- end }}
    env: {{ include "tidegate.environment" . | nindent 6 }}
    resources: {{ toYaml .root.Values.migrate.resources | nindent 6 }}
    securityContext: {{ include "tidegate.containerSecurity" .root | nindent 6 }}
    volumeMounts: {{ include "tidegate.mounts" .root | nindent 6 }}
volumes: {{ include "tidegate.volumes" . | nindent 2 }}
{{- end }}
