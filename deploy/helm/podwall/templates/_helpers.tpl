{{/* One agent a node can own the kernel's tables, so that names do not depend on the release. */}}
{{- define "podwall.selector" -}}
app.kubernetes.io/name: podwall
app.kubernetes.io/component: agent
{{- end }}

{{- define "podwall.labels" -}}
app.kubernetes.io/name: podwall
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "podwall.image" -}}
{{- $name := required "image.repository: where is the image?" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $name }}@{{ .Values.image.digest }}
{{- else -}}
{{ $name }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Where kubelet asks: at the node's address, or where else the agent listens. */}}
{{- define "podwall.probed" -}}
port: metrics
{{- if not (or (eq .Values.metrics.address "0.0.0.0") (eq .Values.metrics.address "[::]")) }}
host: {{ .Values.metrics.address | quote }}
{{- end }}
{{- end }}
