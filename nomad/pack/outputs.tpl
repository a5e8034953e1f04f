[[ if var "redis" . -]]
When the Redis have agreed on a primary, Consul's DNS has it as [[ var "group" . ]]-primary.service.consul.
[[ end -]]
[[ if var "cluster" . -]]
When all [[ var "cluster_count" . ]] nodes are there, they become the cluster [[ var "cluster_name" . ]].
[[ end -]]
