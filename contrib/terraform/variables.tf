variable "kind" {
  description = "What signs the identities: nomad or kubernetes. It says which of consul/login-*.json the auth method is made of, and which identities are let in."
  type        = string

  validation {
    condition     = contains(["nomad", "kubernetes"], var.kind)
    error_message = "Write nomad or kubernetes."
  }
}

variable "method" {
  description = "Name of the auth method: what login_method ([consul.login] method) says. null: nomad-workloads or kubernetes."
  type        = string
  default     = null
}

variable "create_method" {
  description = "Whether the auth method is made; false where it is there, as after `nomad setup consul`."
  type        = bool
  default     = true
}

variable "config" {
  description = "Keys of the auth method's config that differ from the file, such as JWKSURL, JWKSCACert or BoundIssuer."
  type        = any
  default     = {}
}

variable "selector" {
  description = "Which identities are let in, as Consul's binding rules write it. null: those of this repository's jobs and pods."
  type        = string
  default     = null
}

variable "max_token_ttl" {
  description = "How long a token lives, from 1m to 24h. Agents fetch the next one at two thirds."
  type        = string
  default     = "1h"
}

variable "policy" {
  description = "Rules of the agents' policy. null: consul/agent-policy.hcl, for the group redis."
  type        = string
  default     = null
}
