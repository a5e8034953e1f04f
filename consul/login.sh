#!/bin/sh
# Lets consul-redis log in by an identity (docs/how-to/log-in-by-identity.md), with Consul's own CLI:
#
#   sh consul/login.sh nomad        # by what Nomad signs: consul/login-nomad.json says where its keys are
#   sh consul/login.sh kubernetes   # by what Kubernetes signs: consul/login-kubernetes.json
#
# It makes the policy, the role and the auth method where they are not there yet, and a binding rule of its own. It needs
# the right `acl = "write"`. contrib/terraform makes the same.
#
#   sh consul/login.sh nomad|kubernetes [CONFIG.json [SELECTOR]]
#
# METHOD=NAME is another name for the auth method (nomad-workloads, kubernetes), TYPE another type (jwt).
set -eu

kind=$1
here=$(dirname "$0")
case $kind in nomad) name=nomad-workloads ;; *) name=$kind ;; esac
name=${METHOD:-$name}
config=${2:-$here/login-$kind.json}
# How long a token lives: agents fetch the next one at two thirds. 1m to 24h; 0s for ever.
ttl=${MAX_TOKEN_TTL:-1h}
# The auth method's type: jwt, or kubernetes.
type=${TYPE:-jwt}

case $kind in
nomad) selector='value.nomad_namespace == "default" and value.nomad_job_id matches "^redis(-sentinel|-cluster|-observer)?$"' ;;
kubernetes) selector='value.namespace == "default" and value.account == "consul-redis"' ;;
*)
	echo "$0: $kind: write nomad or kubernetes" >&2
	exit 64
	;;
esac
selector=${3:-$selector}

has() { consul acl "$@" >/dev/null 2>&1; }

has policy read -name consul-redis-agent ||
	consul acl policy create -name consul-redis-agent -rules "@$here/agent-policy.hcl" \
		-description "An agent of consul-redis"

has role read -name consul-redis ||
	consul acl role create -name consul-redis -policy-name consul-redis-agent \
		-description "What is logged in as consul-redis"

has auth-method read -name "$name" ||
	consul acl auth-method create -name "$name" -type "$type" -max-token-ttl "$ttl" -config "@$config" \
		-description "By which consul-redis logs in"

# Other rules of the method stay as they are.
rule=$(consul acl binding-rule list -method "$name" |
	awk '/^[0-9a-f-]+:$/ { id = $1 } /^ *Description: *consul-redis$/ { sub(":", "", id); print id }')
if [ -n "$rule" ]; then
	consul acl binding-rule update -id "$rule" -bind-type role -bind-name consul-redis -selector "$selector" \
		-description consul-redis
else
	consul acl binding-rule create -method "$name" -bind-type role -bind-name consul-redis -selector "$selector" \
		-description consul-redis
fi
