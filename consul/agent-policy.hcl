# The least that an agent needs, for a group `redis` published as service `redis`.
# For each further group: repeat the lines marked (group), with its names.
#
#   consul acl policy create -name consul-redis-agent -rules @consul/agent-policy.hcl
#   consul acl token create -description consul-redis -policy-name consul-redis-agent

# (group) Its keys: the fence, the plain keys, the history.
key_prefix "redis-ha/redis/" { policy = "write" }

# (group) The synthetic node that its rows are on. No other node can be written.
node "redis-ha-redis" { policy = "write" }

# (group) The four services. `-server` is only registered in node mode.
service "redis"         { policy = "write" }
service "redis-primary" { policy = "write" }
service "redis-replica" { policy = "write" }
service "redis-server"  { policy = "write" }

# Where Sentinels are: one service and one node for all groups.
service "redis-sentinel"  { policy = "write" }
node "redis-ha-sentinels" { policy = "write" }

# So that catalog and health reads show the rows.
node_prefix "" { policy = "read" }

# All agents of one prefix: where they share the groups. Without it each agent watches all its groups.
key_prefix "redis-ha/=fleet/" { policy = "write" }

# So that the agent shows in `consul-redis status`. Without it everything else works, and the agent
# says once that it does not show.
session_prefix "" { policy = "write" }
