#!/usr/bin/env bash
# What `tpu` does on each host of a TPU. Everything is in ~/bert-vit-jax: venv/, trees/COMMIT/, logs/RUN/, and runs/,
# which is where a relative --workdir leads to, whatever the commit.
#
# gcloud repeats a command whose connection broke: each can be typed twice.
set -euo pipefail
base="$HOME/bert-vit-jax"
host=${HOSTNAME:-$(hostname)}

fail() { printf 'error on %s: %s\n' "$host" "$*" >&2; exit 1; }

# The run that is under way on this host, if any.
live_run() {
  local folder
  for folder in "$base"/logs/*/; do
    if [ -f "$folder/supervisor" ] && [ ! -f "$folder/exit_code" ] && kill -0 "$(cat "$folder/supervisor")" 2> /dev/null; then
      basename "$folder"
      return
    fi
  done
}

# The system image may have a Python that is too old: uv, a package, brings one.
make_venv() {
  rm -rf "$base/venv"
  if python3 -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    python3 -m venv "$base/venv"
  else
    python3 -m pip install --quiet --user uv || fail "pip does not work, see above: is this host online?"
    python3 -m uv venv --quiet --seed --python 3.11 "$base/venv"
  fi
}

# install COMMIT EXTRAS: the libraries, once for each state of the constraints.
install() {
  local tree="$base/trees/$1" extras=$2 key running
  printf '%s\n' "$1" > "$tree/.commit"
  mkdir -p "$base/runs" "$base/logs"
  ln -sfn "$base/runs" "$tree/runs"
  key="$(cat "$tree/pyproject.toml" "$tree/tpu_setup/constraints.txt" | cksum | tr ' ' -) $extras"
  if [ -f "$base/venv/.installed" ] && [ "$(cat "$base/venv/.installed")" = "$key" ]; then
    echo "$host: installed before"
    return
  fi
  running=$(live_run)
  [ -z "$running" ] || fail "$running runs here, and its libraries cannot be changed: wait for it, or stop it"
  make_venv
  "$base/venv/bin/python" -m pip install --quiet --constraint "$tree/tpu_setup/constraints.txt" "${tree}[$extras]" ||
    fail "pip could not install the package, see above"
  printf '%s' "$key" > "$base/venv/.installed"
  echo "$host: installed"
}

# start RUN COMMIT COMMAND...: in a session of its own, which survives the connection.
start() {
  local run=$1 commit=$2 folder="$base/logs/$1" running
  shift 2
  running=$(live_run)
  [ -z "$running" ] || [ "$running" = "$run" ] ||
    fail "$running runs here already: stop it (Ctrl-C in its terminal), or wait for it"
  mkdir "$folder" 2> /dev/null || return 0  # started before
  touch "$folder/log"
  # What starts in the background ignores SIGINT, which nothing but env undoes.
  setsid env --default-signal=INT bash "$0" supervise "$folder" "$base/trees/$commit" "$@" < /dev/null > /dev/null 2>&1 &
  echo $! > "$folder/supervisor"
}

# supervise FOLDER TREE COMMAND...: hands signals on, and notes the exit code.
supervise() {
  local folder=$1 tree=$2 child code heard
  shift 2
  cd "$tree"
  export PATH="$base/venv/bin:$PATH" PYTHONPATH="$tree" PYTHONUNBUFFERED=1
  set -m  # the same for the command
  "$@" >> "$folder/log" 2>&1 &
  child=$!
  trap 'heard=yes; kill -s TERM "$child"' TERM
  trap 'heard=yes; kill -s INT "$child"' INT
  while :; do
    heard=''
    code=0
    wait "$child" || code=$?
    [ -n "$heard" ] || break  # else it was the signal that ended the wait, not the command
  done
  echo "$code" > "$folder/exit_code.new"
  mv "$folder/exit_code.new" "$folder/exit_code"
}

# follow RUN OFFSET: the log from a byte on, until the command has ended.
follow() {
  local folder="$base/logs/$1"
  [ -f "$folder/log" ] || fail "no run $1 on this host"
  tail -s 0.2 --pid="$(cat "$folder/supervisor")" -c "+$(($2 + 1))" -f "$folder/log"
}

# state RUN: one line, of this host: its name, and `running`, `ended CODE`, `died` or `missing`.
state() {
  local folder="$base/logs/$1"
  if [ ! -f "$folder/supervisor" ]; then
    echo "$host missing"
  elif [ -f "$folder/exit_code" ]; then
    echo "$host ended $(cat "$folder/exit_code")"
  elif kill -0 "$(cat "$folder/supervisor")" 2> /dev/null; then
    echo "$host running"
  elif [ -f "$folder/exit_code" ]; then  # it ended between the questions
    echo "$host ended $(cat "$folder/exit_code")"
  else
    echo "$host died"
  fi
}

# signal RUN NAME: to the command, if it still runs.
signal() {
  kill -s "$2" "$(cat "$base/logs/$1/supervisor")" 2> /dev/null || true
}

# log RUN: all of it.
log() { cat "$base/logs/$1/log"; }

"$@"
