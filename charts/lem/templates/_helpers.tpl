{{- define "lem.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 45 | trimSuffix "-" }}
{{- end }}

{{/* Release and chart name, once where they are the same. */}}
{{- define "lem.fullname" -}}
{{- $name := include "lem.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 45 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "lem.operator" -}}
{{ include "lem.fullname" . }}-operator
{{- end }}

{{- define "lem.agent" -}}
{{ include "lem.fullname" . }}-agent
{{- end }}

{{/* Of cluster-scoped objects: a namespace has no dot, so no two releases share one. */}}
{{- define "lem.clusterName" -}}
{{ include "lem.operator" . }}.{{ .Release.Namespace }}
{{- end }}

{{- define "lem.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "lem.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: lem
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A line of metadata, or none. */}}
{{- define "lem.annotations" -}}
{{- with .Values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "lem.operatorSelector" -}}
app.kubernetes.io/name: {{ include "lem.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "lem.agentSelector" -}}
app.kubernetes.io/name: {{ include "lem.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{/* What the operator puts on every runner pod (operator/src/controller/build/name.rs). */}}
{{- define "lem.runnerSelector" -}}
app.kubernetes.io/managed-by: lem-operator
app.kubernetes.io/component: lem-runner
{{- end }}

{{- define "lem.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "lem.operator" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "lem.leaseName" -}}
{{ default (include "lem.operator" .) .Values.leaderElection.leaseName }}
{{- end }}

{{- define "lem.agentNamespace" -}}
{{ default .Release.Namespace .Values.agent.namespace.name }}
{{- end }}

{{/* Reference of an image: dict "root" $ "image" (its values). */}}
{{- define "lem.image" -}}
{{- $registry := default .root.Values.images.registry .image.registry }}
{{- with $registry }}{{ . }}/{{ end }}{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default .root.Chart.AppVersion .image.tag }}{{ end }}
{{- end }}

{{/* Says "yes" or nothing: dict "root" $ "value" (true, false or auto) "kind" (a group, version and kind). */}}
{{- define "lem.wanted" -}}
{{- if eq (toString .value) "true" }}yes
{{- else if and (eq (toString .value) "auto") (.root.Capabilities.APIVersions.Has .kind) }}yes
{{- end }}
{{- end }}
