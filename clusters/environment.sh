# Read by every login shell of a node (setup.sh puts it into ~/.bashrc), and so by Ray and its trials: the settings that
# the cluster file left in ~/.sparsity-sweeps, with what follows from them.
. ~/.sparsity-sweeps
VENV=${VENV:-$HOME/.venv-sparsity-sweeps}
MLFLOW_HOME=~/mlflow # of clusters/mlflow.sh, on the head
case :$PATH: in *:"$VENV/bin":*) ;; *) export PATH="$VENV/bin:$PATH" ;; esac
export RAY_AUTH_MODE=token # that of ~/.ray/auth_token
export SPARSITY_SWEEPS_RUNS="$SHARED/runs"
export MLFLOW_TRACKING_URI="${MLFLOW_TRACKING_URI:-http://127.0.0.1:5000}"
if [ -r "$MLFLOW_HOME/password" ]; then
  export MLFLOW_TRACKING_USERNAME=admin MLFLOW_TRACKING_PASSWORD="$(cat "$MLFLOW_HOME/password")"
fi
