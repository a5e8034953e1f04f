{{- /* What the objects are called. Pods have a label with the name of their set, a dash and ten characters, of 63 at most. */ -}}
{{- define "consul-redis.name" -}}
{{- .Values.name | default .Release.Name | trunc 42 | trimSuffix "-" -}}
{{- end -}}

{{- /* What selects the pods of one set. It can never change. */ -}}
{{- define "consul-redis.selector" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: redis-ha
{{- end -}}

{{- /* What an object of the release has besides. Not for pods: they would be restarted for each new version of the chart. */ -}}
{{- define "consul-redis.labels" -}}
app.kubernetes.io/part-of: redis-ha
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* The first primary is chosen among so many: of a set's values. */ -}}
{{- define "consul-redis.expect" -}}
{{- .expect | default .replicas | int64 -}}
{{- end -}}

{{- /* Service, budget and head of a StatefulSet, down to the pods' containers. Takes root, of (the set's values), name, ports. */ -}}
{{- define "consul-redis.set" -}}
# Headless: each pod is found by itself, and before it is ready, so that a group can begin.
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  labels:
    app.kubernetes.io/name: {{ .name }}
    {{- include "consul-redis.labels" .root | nindent 4 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "consul-redis.selector" .name | nindent 4 }}
  ports:
    {{- range .ports }}
    - {name: {{ .name }}, port: {{ .port }}}
    {{- end }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels:
    app.kubernetes.io/name: {{ .name }}
    {{- include "consul-redis.labels" .root | nindent 4 }}
spec:
  maxUnavailable: {{ .of.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "consul-redis.selector" .name | nindent 6 }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ .name }}
  labels:
    app.kubernetes.io/name: {{ .name }}
    {{- include "consul-redis.labels" .root | nindent 4 }}
spec:
  serviceName: {{ .name }}
  replicas: {{ .of.replicas | int64 }}
  # All at once: the first primary is chosen among all of them.
  podManagementPolicy: Parallel
  selector:
    matchLabels:
      {{- include "consul-redis.selector" .name | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "consul-redis.selector" .name | nindent 8 }}
        {{- with .of.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .of.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      terminationGracePeriodSeconds: {{ .of.terminationGracePeriodSeconds | int64 }}
      serviceAccountName: {{ .root.Values.serviceAccount.name }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with .root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .of.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 999
        runAsGroup: 999
        fsGroup: 999
        seccompProfile: {type: RuntimeDefault}
      {{- with .of.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .of.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .of.topologySpreadConstraints }}
      topologySpreadConstraints:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if .of.affinity }}
      affinity:
        {{- toYaml .of.affinity | nindent 8 }}
      {{- else if .of.onePerNode }}
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector:
                matchLabels:
                  {{- include "consul-redis.selector" .name | nindent 18 }}
      {{- end }}
{{- end -}}

{{- /* Image, arguments of TLS and `envFrom` of a container. Takes root, of, port, args. */ -}}
{{- define "consul-redis.container" -}}
image: {{ printf "%s:%s" .root.Values.image.repository .root.Values.image.tag | quote }}
{{- with .root.Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
args:
  {{- range .args }}
  - {{ . | quote }}
  {{- end }}
  {{- if .root.Values.tls.enabled }}
  # As arguments, they go before what the volume's copy of the config says.
  - --port
  - "0"
  - --tls-port
  - {{ .port | quote }}
  - --tls-replication
  - "yes"
  {{- if eq .role "cluster" }}
  - --tls-cluster
  - "yes"
  {{- end }}
  - --tls-ca-cert-file
  - /etc/redis-tls/ca.crt
  - --tls-cert-file
  - /etc/redis-tls/tls.crt
  - --tls-key-file
  - /etc/redis-tls/tls.key
  - --tls-auth-clients
  - optional
  {{- end }}
# The login, where a ConfigMap has it: by the token below.
envFrom:
  - configMapRef: {name: {{ .root.Values.login.configMap }}, optional: true}
  {{- with .of.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* Who the pod is, and where Consul is. Takes root. */ -}}
{{- define "consul-redis.env" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- if contains "$(HOST_IP)" .root.Values.consul.address }}
- name: HOST_IP
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
{{- end }}
- {name: CONSUL_HTTP_ADDR, value: {{ .root.Values.consul.address | quote }}}
{{- end -}}

{{- /* What else the pod is told. Takes root, of. */ -}}
{{- define "consul-redis.moreEnv" -}}
{{- with .root.Values.consul.tls }}
{{- if .enabled }}
- {name: CONSUL_HTTP_SSL, value: "true"}
- {name: CONSUL_CACERT, value: /etc/consul-tls/ca.crt}
{{- if .clientCert }}
- {name: CONSUL_CLIENT_CERT, value: /etc/consul-tls/tls.crt}
- {name: CONSUL_CLIENT_KEY, value: /etc/consul-tls/tls.key}
{{- end }}
{{- with .serverName }}
- {name: CONSUL_TLS_SERVER_NAME, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- if .root.Values.consul.token.secret }}
- name: CONSUL_HTTP_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.consul.token.secret }}
      key: {{ .root.Values.consul.token.key }}
{{- end }}
{{- if .root.Values.tls.enabled }}
- {name: CONSUL_REDIS_CONFIG, value: /etc/consul-redis-agent/consul-redis.toml}
{{- end }}
{{- with .of.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Probes, limits and mounts of a container. Takes root, of, role, startup (how many times 2 s it may take to start). */ -}}
{{- define "consul-redis.containerRest" -}}
startupProbe:
  exec: {command: [consul-redis, health]}
  periodSeconds: 2
  failureThreshold: {{ .startup }}
livenessProbe:
  exec: {command: [consul-redis, health]}
  periodSeconds: 10
  failureThreshold: 6
readinessProbe:
  exec: {command: [consul-redis, health]}
  periodSeconds: 5
resources:
  {{- toYaml .of.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: data, mountPath: /data}
  {{- if ne .role "cluster" }}
  - {name: config, mountPath: /etc/redis, readOnly: true}
  {{- end }}
  - {name: identity, mountPath: /var/run/secrets/consul-redis, readOnly: true}
  {{- if .root.Values.consul.tls.enabled }}
  - {name: consul-tls, mountPath: /etc/consul-tls, readOnly: true}
  {{- end }}
  {{- if .root.Values.tls.enabled }}
  - {name: redis-tls, mountPath: /etc/redis-tls, readOnly: true}
  - {name: agent, mountPath: /etc/consul-redis-agent, readOnly: true}
  {{- end }}
  {{- with .of.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* The pods' volumes. Takes root, of, role. */ -}}
{{- define "consul-redis.volumes" -}}
{{- if ne .role "cluster" -}}
- name: config
  configMap:
    name: {{ include "consul-redis.name" .root }}-config
{{ end -}}
# Who this pod is, signed by Kubernetes for Consul, and renewed by the kubelet.
- name: identity
  projected:
    sources:
      - serviceAccountToken:
          audience: {{ .root.Values.login.audience }}
          expirationSeconds: 3600
          path: token
{{- if .root.Values.consul.tls.enabled }}
- name: consul-tls
  secret:
    secretName: {{ required "consul.tls.enabled needs consul.tls.secret, a Secret with ca.crt" .root.Values.consul.tls.secret }}
{{- end }}
{{- if .root.Values.tls.enabled }}
- name: redis-tls
  secret:
    secretName: {{ required "tls.enabled needs tls.secret, a Secret with ca.crt, tls.crt and tls.key" .root.Values.tls.secret }}
- name: agent
  configMap:
    name: {{ include "consul-redis.name" .root }}-agent
{{- end }}
{{- with .of.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* A claim for each pod. Takes a `storage`. */ -}}
{{- define "consul-redis.claims" -}}
- metadata:
    name: data
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .class }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests: {storage: {{ .size }}}
{{- end -}}
