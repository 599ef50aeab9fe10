#!/usr/bin/env bash
# MLflow's server on the head, behind a password.
#   mlflow.sh start      unless it runs already; returns when it answers
#   mlflow.sh password   of the user "admin": $MLFLOW_TRACKING_PASSWORD at the first start, or else one made up then
#   mlflow.sh stop
# Everything of it lies in ~/mlflow: database, password, log.
#
# Settings, which the cluster file leaves in ~/.sparsity-sweeps:
#   MLFLOW_HOST      address it listens on (127.0.0.1: to be reached through SSH only)
#   MLFLOW_PORT      (5000)
#   MLFLOW_NAMES     further names that it is called by, separated by spaces; other names are refused
#   MLFLOW_DATABASE  (SQLite in ~/mlflow) or e.g. postgresql://mlflow@db/mlflow, with the password in ~/.pgpass
#   ARTIFACTS        where figures and pruned checkpoints go: an object store, s3://bucket/path, or a folder
set -euo pipefail
umask 077
. ~/sparsity-sweeps/clusters/environment.sh
mkdir -p "$MLFLOW_HOME"
cd "$MLFLOW_HOME"
port=${MLFLOW_PORT:-5000}

running() { [[ -r pid ]] && grep -qs mlflow "/proc/$(<pid)/cmdline"; }

start() {
  running && return
  [[ -s password ]] || printf %s "${MLFLOW_TRACKING_PASSWORD:-$(python -c 'import secrets; print(secrets.token_urlsafe(18))')}" >password
  [[ -s secret ]] || python -c 'import secrets; print(secrets.token_urlsafe(32))' >secret
  # Without the cache each request hashes the password anew, slowly on purpose, and a trial takes dozens of requests.
  printf '%s\n' >auth.ini '[mlflow]' 'default_permission = READ' "database_uri = sqlite:///$MLFLOW_HOME/auth.db" \
    'admin_username = admin' 'auth_cache_ttl_seconds = 300'
  local name hosts=() origins=()
  for name in localhost 127.0.0.1 "$(hostname)" $(hostname -I) ${MLFLOW_NAMES:-}; do
    hosts+=("$name" "$name:*") # the name with its port is another name to MLflow
    origins+=("http://$name:$port")
  done
  # By the environment and not by arguments: those are in the process list for all to see.
  export MLFLOW_AUTH_ADMIN_PASSWORD="$(<password)" MLFLOW_FLASK_SERVER_SECRET_KEY="$(<secret)"
  export MLFLOW_AUTH_CONFIG_PATH=$MLFLOW_HOME/auth.ini
  export MLFLOW_BACKEND_STORE_URI=${MLFLOW_DATABASE:-sqlite:///$MLFLOW_HOME/mlflow.db}
  export MLFLOW_ARTIFACTS_DESTINATION=${ARTIFACTS:-$SHARED/mlartifacts} MLFLOW_WORKERS=${MLFLOW_WORKERS:-2}
  export MLFLOW_HOST=${MLFLOW_HOST:-127.0.0.1} MLFLOW_PORT=$port
  export MLFLOW_SERVER_ALLOWED_HOSTS=$(IFS=,; echo "${hosts[*]}")
  export MLFLOW_SERVER_CORS_ALLOWED_ORIGINS=$(IFS=,; echo "${origins[*]}")
  export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false # of language-model judges: nothing here needs it
  unset MLFLOW_TRACKING_URI MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD
  # A session of its own: it outlives the login that started it, and stops as a whole.
  setsid bash -c 'echo $$ >pid; exec python -m mlflow server --app-name basic-auth' </dev/null >>log 2>&1 &
  for _ in {1..180}; do
    sleep 1
    (: <>"/dev/tcp/${MLFLOW_HOST/0.0.0.0/127.0.0.1}/$port") 2>/dev/null && return
    running || break
  done
  echo "mlflow.sh: the server does not answer on port $port, see $MLFLOW_HOME/log" >&2
  tail -n 5 log >&2
  return 1
}

stop() {
  running || return 0
  kill -- "-$(<pid)"
  for _ in {1..20}; do
    running || return 0
    sleep 0.5
  done
  kill -KILL -- "-$(<pid)"
}

case ${1:-} in
  start | stop) "$1" ;;
  password) cat password && echo ;;
  *)
    echo "mlflow.sh: must be start, stop or password, got '${1:-}'" >&2
    exit 2
    ;;
esac
