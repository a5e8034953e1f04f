# The defaults make the jobs in nomad/, to the letter: tests/nomad/pack.rs.

variable "image" {
  description = "The image of the Dockerfile, where the clients find it"
  type        = string
  default     = "registry.example.com/consul-redis:1"
}

variable "datacenters" {
  description = "Where the clients are"
  type        = list(string)
  default     = ["dc1"]
}

variable "consul_http_addr" {
  description = "The Consul agent of each host"
  type        = string
  default     = "127.0.0.1:8500"
}

variable "login_method" {
  description = "The auth method that agents log in to Consul by; empty: no login"
  type        = string
  default     = ""
}

variable "group" {
  description = "What Sentinel calls the group, and what its names in Consul begin with"
  type        = string
  default     = "redis"
}

variable "groups" {
  description = "All groups that the Sentinels and the observer serve, with commas; empty: `group`"
  type        = string
  default     = ""
}

variable "redis" {
  description = "Run the Redis of the group"
  type        = bool
  default     = true
}

variable "redis_job" {
  description = "Their job's name: another one for each group"
  type        = string
  default     = "redis"
}

variable "redis_count" {
  description = "How many Redis; the first primary is chosen when all of them are there"
  type        = number
  default     = 3
}

variable "port" {
  description = "Their port on every host: another one for each group"
  type        = number
  default     = 6379
}

variable "volume" {
  description = "The client's host volume that their data is on"
  type        = string
  default     = "redis-data"
}

variable "sentinel" {
  description = "Run the Sentinels, which serve all groups: false for a second group"
  type        = bool
  default     = true
}

variable "sentinel_count" {
  description = "How many Sentinels: an odd number, three or more"
  type        = number
  default     = 3
}

variable "sentinel_port" {
  description = "Their port on every host"
  type        = number
  default     = 26379
}

variable "cluster" {
  description = "Run a Redis Cluster"
  type        = bool
  default     = false
}

variable "cluster_job" {
  description = "Its job's name"
  type        = string
  default     = "redis-cluster"
}

variable "cluster_name" {
  description = "What the cluster is called in Consul"
  type        = string
  default     = "orders"
}

variable "cluster_count" {
  description = "How many nodes; they become a cluster when all of them are there"
  type        = number
  default     = 6
}

variable "cluster_port" {
  description = "Their port on every host"
  type        = number
  default     = 6379
}

variable "cluster_volume" {
  description = "The client's host volume that their data is on"
  type        = string
  default     = "redis-cluster-data"
}

variable "observer" {
  description = "Run an agent on every client"
  type        = bool
  default     = false
}

variable "sentinel_service" {
  description = "The service in Consul that the observer finds the Sentinels by"
  type        = string
  default     = "redis-sentinel"
}

variable "http_port" {
  description = "The observer's port for the page and metrics"
  type        = number
  default     = 9790
}
