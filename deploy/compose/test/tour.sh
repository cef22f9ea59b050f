#!/bin/bash
# The tour of docs/compose.md: it starts everything, cuts the line, changes objects, starts the
# gateway again, heals, and waits until the site has converged.
set -euo pipefail
. "$(dirname "$0")/env"
PATH="$repository/.lab/bin:$PATH"
export KUBECONFIG="$repository/deploy/compose/kubeconfig"
begin=$SECONDS
fail() {
	echo "FAIL: $*"
	compose ps
	for service in bridge gateway; do compose logs --no-color --tail 15 $service; done
	exit 1
}
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR
say() { echo "$((SECONDS - begin)) s: $*"; }
# eventually SECONDS COMMAND…
eventually() {
	local end=$((SECONDS + $1))
	shift
	until "$@" > /dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "not within its time: $*"
		sleep 0.5
	done
}
pending() { kubectl get site plant-a -o 'jsonpath={.status.pending}'; }
connected() { [ "$(kubectl get site plant-a -o 'jsonpath={.status.connected}')" = "$1" ]; }
ready_pods() { [ "$(kubectl get deployment web -o 'jsonpath={.status.readyReplicas}')" = "$1" ]; }
# wrote VALUE: the slave has got this value in holding register 0.
wrote() { compose logs modbus 2>&1 | grep -q '"table":"holding","address":0,"values":\['"$1"'\]'; }
scraped() {
	docker exec "$(compose ps -q prometheus)" bash -c \
		"exec 3<>/dev/tcp/127.0.0.1/9090; printf 'GET /api/v1/query?query=$1 HTTP/1.0\r\n\r\n' >&3; cat <&3" | grep -q '"value":\[[0-9.]*,"1"\]'
}
# The containers of the Deployment run at the gateway.
serving() { docker exec petiole-gateway sh -c 'grep -l "[h]ttpd" /proc/[0-9]*/cmdline'; }
reach() { docker exec petiole-gateway timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2" 2> /dev/null; }

compose up -d gateway modbus prometheus
say "docker compose up has returned"
compose exec -T controlplane lab compose kubeconfig > "$KUBECONFIG"
eventually 120 kubectl get node plant-a-1
kubectl wait node/plant-a-1 --for=condition=Ready --timeout=120s
say "the node is Ready"
kubectl apply -f "$repository/deploy/lab/samples"
kubectl rollout status deployment/web --timeout=120s
eventually 60 kubectl get devicestatus boiler
kubectl wait devicestatus/boiler --for=jsonpath='{.status.state}'=online --timeout=60s
eventually 30 wrote 215
say "the Deployment runs, the Device is online"
kubectl logs deployment/web --tail=1
eventually 60 scraped petiole_bridge_leader
eventually 60 scraped petiole_leaf_link_up
say "Prometheus scrapes bridge and leaf"

reach hub 7422 || fail "the gateway does not reach the hub"
api=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(compose ps -q controlplane)")
for host in controlplane "$api"; do
	if reach "$host" 6443; then fail "the gateway reaches the API server at $host"; fi
done

docker network disconnect petiole-uplink petiole-gateway
eventually 60 connected false
say "cut"
kubectl patch device boiler --type=json -p '[{"op":"replace","path":"/spec/properties/2/desired/value","value":"42.5"}]'
kubectl scale deployment/web --replicas=4
[ "$(pending)" -gt 0 ] || eventually 30 bash -c '[ "$(kubectl get site plant-a -o "jsonpath={.status.pending}")" -gt 0 ]'
docker restart -t 30 petiole-gateway
eventually 120 serving
if wrote 425; then fail "a cut gateway has got a new value"; fi
docker network connect petiole-uplink petiole-gateway
say "healed, after a power cycle of the gateway"
eventually 60 connected true
eventually 60 wrote 425
say "the Device has its new value"
eventually 120 ready_pods 4
kubectl wait node/plant-a-1 --for=condition=Ready --timeout=60s
eventually 60 bash -c '[ "$(kubectl get site plant-a -o "jsonpath={.status.pending}")" = 0 ]'
say "converged"

# A second `up` changes nothing.
before=$(docker inspect -f '{{.Id}} {{.State.StartedAt}}' petiole-gateway)
compose up -d gateway modbus prometheus
[ "$(docker inspect -f '{{.Id}} {{.State.StartedAt}}' petiole-gateway)" = "$before" ] || fail "a second up has replaced the gateway"
kubectl get sites,nodes,pods,devices
say "done"
