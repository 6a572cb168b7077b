#!/usr/bin/env bash
# Try every profile of docker-compose.yml with the container engine of this machine: train, rebuild,
# serve, ask, take down, stop and kill servers under load, monitor, and remove all of it again.
#
#   deploy/try.sh            prints a line for each step, with its seconds and its result
#   deploy/try.sh --keep     leaves everything running at the end
#
# It needs docker with compose, or podman (4 or newer) with docker-compose, python3, bc and curl. It is
# a compose project of its own (whence-try), on port 18000 of this machine, with its own volumes, and
# some of the demo's pictures as its gallery. Nothing else on the engine is touched.
#
# Where registries cannot be reached, name images that are on this machine: TRY_IMAGE (whence, already
# built), TRY_NGINX, TRY_PROMETHEUS, TRY_GRAFANA and TRY_MILVUS. Steps whose image is the word `none`
# are left out. TRY_COMPOSE names the command of compose, if it is neither `docker compose` nor
# `docker-compose`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
port=18000
url=http://127.0.0.1:$port
service_pid=
keep=${1:-}

# The engine

if docker version >/dev/null 2>&1; then
  engine=docker
else
  engine=podman
  podman version >/dev/null
  podman system service --time=0 "unix://$work/podman.sock" &
  service_pid=$!
  export DOCKER_HOST=unix://$work/podman.sock
fi
if [ -n "${TRY_COMPOSE:-}" ]; then
  compose_command=$TRY_COMPOSE
elif docker compose version >/dev/null 2>&1; then
  compose_command="docker compose"
else
  compose_command=docker-compose
fi
export COMPOSE_PROJECT_NAME=whence-try WHENCE_IMAGES=$work/images
mkdir "$work/images"
cp -r app/demo/exemplars/{B,C,D,P}* "$work/images" # 13 concepts, so that training takes seconds
chmod -R a+rX "$work"
export COMPOSE_PROGRESS=plain

compose() {
  # shellcheck disable=SC2086 # the command may be two words
  $compose_command -f docker-compose.yml -f "$work/override.yml" "$@" 2>>"$work/compose.log"
}

image_of() { # an image of docker-compose.yml by service
  python3 - "$1" <<'PY'
import re, sys
text = open("docker-compose.yml").read()
print(re.search(rf"^  {sys.argv[1]}:\n(?:    .*\n|\n)*?    image: (\S+)", text, re.M)[1])
PY
}

nginx=${TRY_NGINX:-$(image_of proxy)}
prometheus=${TRY_PROMETHEUS:-$(image_of prometheus)}
grafana=${TRY_GRAFANA:-$(image_of grafana)}
milvus=${TRY_MILVUS:-$(image_of milvus)}
image=${TRY_IMAGE:-whence}
pull=build
[ -n "${TRY_IMAGE:-}" ] && pull=never

write_override() { # the resolver's address is known once there is a network
  sed "s/127.0.0.11/${1:-127.0.0.11}/" deploy/nginx/compose.conf >"$work/servers.conf"
  cat >"$work/override.yml" <<YAML
x-job: &job { image: $image, pull_policy: $pull, env_file: !reset [] }
x-ours: &ours { image: $image, pull_policy: $pull, env_file: !override [deploy/server.env] }
services:
  whence:
    <<: *ours
    environment: { WHENCE_REBUILD_OPTIONS: --source /images --nice 0 }
    volumes: ["$work/images:/images:ro"]
  whence-1: *ours
  whence-2: *ours
  train: *job
  rebuild: *job
  proxy:
    image: $nginx
    ports: !override ["127.0.0.1:$port:8080"]
    volumes: ["$work/servers.conf:/etc/nginx/whence/servers.conf:ro"]
  prometheus:
    image: $prometheus
    ports: !override ["127.0.0.1:19090:9090"]
  grafana:
    image: $grafana
    ports: !override ["127.0.0.1:13000:3000"]
  milvus: { image: $milvus }
YAML
}

cleanup() {
  status=$?
  trap - EXIT
  [ $status = 0 ] || { echo "failed; the last lines of compose:"; tail -n 30 "$work/compose.log"; } >&2
  if [ "$keep" = --keep ] && [ $status = 0 ]; then
    echo "left running: project $COMPOSE_PROJECT_NAME, files in $work"
    exit 0
  fi
  compose --profile scale --profile monitoring --profile jobs down --volumes --timeout 20 || true
  [ -z "$service_pid" ] || kill "$service_pid"
  rm -rf "$work"
  exit $status
}
trap cleanup EXIT

began=
step() { # a step's name; its seconds are printed by `done_`
  name=$1 began=$(date +%s.%N)
}
done_() { # a step's result
  printf '%-34s %7.1f s  %s\n' "$name" "$(echo "$(date +%s.%N) - $began" | bc)" "$*"
}
ask() { curl -sS --max-time 60 -o "$work/answer" -w '%{http_code} %{content_type}' "$@"; }
wait_ready() { # until the proxy's answer to /health/ready is 200
  for _ in $(seq 600); do
    [ "$(curl -s -o /dev/null -w '%{http_code}' --max-time 5 "$url/health/ready")" = 200 ] && return
    sleep 0.1
  done
  echo "not ready after a minute" >&2
  return 1
}
expect() { # status and type, as wanted
  [ "$1" = "$2" ] || { echo "$name: expected $2, got $1: $(head -c 500 "$work/answer")" >&2; return 1; }
}
problem=application/problem+json
query=app/demo/queries/01-blue-robot-with-village.webp

write_override
echo "engine: $engine $($engine version --format '{{.Client.Version}}'), compose $($compose_command version --short)"

step build
if [ -n "${TRY_IMAGE:-}" ]; then
  done_ "left out: $image is there"
else
  compose --profile jobs build
  done_ "$($engine image inspect --format '{{.Size}}' "$image") bytes"
fi

step "network"
$engine network exists ${COMPOSE_PROJECT_NAME}_default 2>/dev/null || true
compose create --no-build whence
resolver=$($engine run --rm --network ${COMPOSE_PROJECT_NAME}_default --entrypoint cat "$image" /etc/resolv.conf |
  awk '/^nameserver/ { print $2; exit }')
write_override "$resolver"
done_ "DNS at $resolver"

step train
compose run --rm train train --images /images --backbone starter --nice 0 >"$work/train.log"
done_ "$(grep 'trained on' "$work/train.log")"

step rebuild
compose run --rm rebuild rebuild --source /images --nice 0 >"$work/rebuild.log"
done_ "$(grep -m 1 'published' "$work/rebuild.log")"

step "up, until ready"
compose up -d --no-build whence proxy
wait_ready
done_ "200 through the proxy"

step ask
expect "$(ask -F "image=@$query" "$url/attribute?top_k=1")" "200 application/json"
done_ "$(python3 -c 'import json,sys; a=json.load(open(sys.argv[1])); print(a["verdict"], a["concepts"][0]["name"])' "$work/answer")"

step "another site's name as the host"
status=$(ask -H 'Host: evil.example' "$url/concepts")
case $status in 4*" $problem") ;; *) expect "$status" "4.. $problem" ;; esac
done_ "$status"

step "400 MB without a key"
head -c 400000000 /dev/zero >"$work/large"
expect "$(ask -F "image=@$work/large" "$url/attribute")" "413 $problem"
rm "$work/large"
done_ "413 $problem"

step "a key, a takedown, and again"
key=$(compose run --rm --no-deps whence keys add try --scope admin | grep -o 'whence_[A-Za-z0-9_-]*' | tail -n 1)
sleep 2 # until the server has read the file of keys
expect "$(ask "$url/concepts")" "401 $problem"
auth="Authorization: Bearer $key"
expect "$(ask -H "$auth" "$url/concepts?limit=1")" "200 application/json"
concept=$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["concepts"][0]["id"])' "$work/answer")
for _ in 1 2; do
  expect "$(ask -X DELETE -H "$auth" -H 'X-Whence-Reason: a try' "$url/concepts/$concept")" "200 application/json"
done
expect "$(ask -H "$auth" "$url/concepts/$concept")" "404 $problem"
records=$(compose exec -T whence sh -c 'wc -l < /data/takedowns.jsonl')
[ "$records" -eq 1 ] || { echo "$records records of one takedown" >&2; exit 1; }
done_ "$concept is hidden, 1 record"

step "rebuild over HTTP"
expect "$(ask -X POST -H "$auth" "$url/admin/rebuild")" "202 application/json"
expect "$(ask -X POST -H "$auth" "$url/admin/rebuild")" "409 $problem"
while expect "$(ask -H "$auth" "$url/admin/rebuild")" "200 application/json" && grep -q '"running"' "$work/answer"; do
  sleep 1
done
grep -q '"succeeded"' "$work/answer" || { cat "$work/answer" >&2; exit 1; }
done_ "$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["message"])' "$work/answer")"

if [ "$milvus" != none ]; then
  step "Milvus, until healthy"
  compose --profile scale up -d --no-build milvus
  until compose --profile scale exec -T milvus curl -sf http://localhost:9091/healthz >/dev/null; do
    sleep 1
  done
  done_ "$milvus"
  step "rebuild into Milvus"
  compose run --rm -e WHENCE_VECTOR_STORE=milvus://milvus:19530/whence rebuild rebuild --source /images --nice 0 >"$work/rebuild.log"
  done_ "$(grep -m 1 'published' "$work/rebuild.log")"
  replicas="whence-1 whence-2"
  step "two more servers, until healthy"
  # shellcheck disable=SC2086 # two words
  compose --profile scale up -d --no-build --no-recreate $replicas
else
  step "two more servers, until healthy"
  compose --profile scale up -d --no-build --no-deps whence-1 whence-2
fi
id_of() { compose --profile scale ps -q "$1"; }
ready_in() { # until a server answers its own health check
  for _ in $(seq 300); do
    compose --profile scale exec -T "$1" python -c \
      "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)" 2>/dev/null && return
    sleep 0.3
  done
  return 1
}
ready_in whence-1 && ready_in whence-2
done_ "three servers"

# Clients ask without a pause; the file `stop` ends them.
cat >"$work/load.py" <<'PY'
import collections, http.client, json, pathlib, sys, threading, time
port, key, picture, stop, clients = sys.argv[1:]
stop = pathlib.Path(stop)
form = (b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        + pathlib.Path(picture).read_bytes() + b"\r\n--x--\r\n")
headers = {"Content-Type": "multipart/form-data; boundary=x", "Authorization": f"Bearer {key}"}
seen, times, odd = collections.Counter(), [], []
def client():
    while not stop.exists():
        began = time.monotonic()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=90)
            connection.request("POST", "/attribute?top_k=1", form, headers)
            answer = connection.getresponse()
            body, kind = answer.read(), answer.headers["content-type"]
            seen[answer.status] += 1
            if kind != ("application/json" if answer.status == 200 else "application/problem+json"):
                odd.append((answer.status, kind, str(body[:80])))
            if answer.status in (429, 503):
                if not answer.headers["retry-after"]:
                    odd.append((answer.status, "no Retry-After"))
                time.sleep(0.1)
            connection.close()
        except OSError as error:
            seen[type(error).__name__] += 1
        times.append(time.monotonic() - began)
threads = [threading.Thread(target=client) for _ in range(int(clients))]
[t.start() for t in threads]; [t.join() for t in threads]
times.sort()
print(json.dumps({"answers": {str(k): v for k, v in seen.items()}, "longest_s": round(times[-1], 2),
                  "p50_s": round(times[len(times) // 2], 2), "odd": odd[:3]}))
PY
under_load() { # a step's name, the number of clients, their answers, and the commands to run meanwhile
  step "$1"
  local wanted=$3
  rm -f "$work/stop"
  python3 "$work/load.py" $port "$key" "$query" "$work/stop" "$2" >"$work/load.json" &
  clients=$!
  shift 3
  sleep 4
  for command in "$@"; do eval "$command"; sleep 4; done
  touch "$work/stop"
  wait $clients
  python3 -c 'import json, sys
found = json.load(open(sys.argv[1]))
sys.exit(" ".join(sorted(found["answers"])) != sys.argv[2] or found["longest_s"] > 3 or found["odd"] != [])' \
    "$work/load.json" "$wanted" || { cat "$work/load.json" >&2; exit 1; }
  done_ "$(cat "$work/load.json")"
}
under_load "8 clients, calm" 8 200 true
under_load "8 clients, a server stops" 8 200 "$engine stop --time 60 \$(id_of whence-1) >/dev/null" \
  "compose --profile scale start whence-1" "ready_in whence-1"
under_load "8 clients, a server is killed" 8 200 "$engine kill \$(id_of whence-2) >/dev/null" \
  "compose --profile scale start whence-2" "ready_in whence-2"
under_load "8 clients, the proxy's own restarts" 8 200 "$engine exec \$(id_of proxy) nginx -s reload 2>/dev/null"

under_load "60 clients of one address" 60 "200 429" true

step "restart of everything"
compose --profile scale restart --timeout 60 whence whence-1 whence-2
wait_ready
expect "$(ask -H "$auth" -F "image=@$query" "$url/attribute")" "200 application/json"
done_ "200"

if [ "$prometheus" != none ]; then
  step "Prometheus, until it scrapes"
  compose --profile monitoring up -d --no-build --no-deps prometheus
  for _ in $(seq 60); do
    up=$(curl -s "http://127.0.0.1:19090/api/v1/query?query=sum(up)" | grep -o '"[0-9]*"\]' | tr -d '"]') || up=
    [ "$up" = 3 ] && break
    sleep 1
  done
  expect "${up:-0}" 3
  done_ "3 targets up"
fi
if [ "$grafana" != none ]; then
  step "Grafana, until it has the dashboard"
  compose --profile monitoring up -d --no-build grafana
  for _ in $(seq 60); do
    curl -sf http://127.0.0.1:13000/api/dashboards/uid/whence >/dev/null && break
    sleep 1
  done
  curl -sf http://127.0.0.1:13000/api/dashboards/uid/whence >/dev/null
  done_ "its dashboard"
fi

step "down"
[ "$keep" = --keep ] || compose --profile scale --profile monitoring --profile jobs down --volumes --timeout 60
done_ "containers and volumes removed"
