{{/*
What the operator may do where it measures. The suite holds this against the API server's audit log, both ways.
No Secret: the kubelet resolves those that experiments name.
*/}}
{{- define "lem.rules" -}}
# Schedules create, cancel and delete experiments.
- apiGroups: [lem.dev]
  resources: [efficiencyexperiments]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [lem.dev]
  resources: [efficiencyschedules]
  verbs: [list, watch]
- apiGroups: [lem.dev]
  resources: [efficiencyexperiments/status, efficiencyschedules/status]
  verbs: [patch]
# Children block the deletion of their owner.
- apiGroups: [lem.dev]
  resources: [efficiencyexperiments/finalizers]
  verbs: [update]
# What it grants to runners it must hold itself: get and watch of Runners, patch of their status.
- apiGroups: [lem.dev]
  resources: [runners]
  verbs: [get, list, watch, create, patch]
- apiGroups: [lem.dev]
  resources: [runners/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- if empty .Values.watchNamespace }}
# The nodes of a fleet (placement.strategy EachNode); an operator of one namespace may not read what belongs to all.
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
{{- end }}
# Pods that are deleted with their namespace need help.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [create, patch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [create, patch]
# Why a pod does not start is in an event only.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
