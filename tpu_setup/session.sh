# shellcheck shell=bash disable=SC2154
# A command on all hosts: copied, started, followed, stopped, and begun again after a preemption. Read by `tpu`.

patience=${TPU_PATIENCE_SECONDS:-60} # that hosts may go on after one has failed, and connections may fail in a row

# Runs a function of on_host.sh, of the tree of `commit`, on one worker or on all.
on_worker() {
  local whom=$1
  shift
  ssh_worker "$whom" "bash bert-vit-jax/trees/$commit/tpu_setup/on_host.sh $(quoted "$@")"
}

# Decides on the commit that hosts get, once: a run that comes back after a preemption has the same.
choose_commit() {
  local changed
  commit=$(git -C "$root" rev-parse HEAD) || mistake "$root is no git repository: hosts get its committed tree"
  changed=$(git -C "$root" status --porcelain | wc -l | tr -d ' ')
  [ "$changed" = 0 ] || say "note: $changed files differ from the commit ${commit:0:9}, or are not in it: hosts get the commit"
}

# Copies exactly the committed tree to every host, and installs what it needs.
send_tree() {
  local scratch archive
  scratch=$(mktemp -d)
  archive=bert-vit-jax-$commit.tar.gz
  git -C "$root" archive --format=tar.gz --output="$scratch/$archive" "$commit"
  say "copying ${commit:0:9} to every host of $name, and installing what is not there"
  # From its folder: gcloud would take a path with a colon for a host.
  (cd "$scratch" && cloud compute tpus tpu-vm scp "$archive" "$name:" --worker=all --quiet) ||
    { rm -rf "$scratch"; fail "$name cannot be reached, see above; is there an ssh key, and a firewall rule for port 22?"; }
  rm -rf "$scratch"
  ssh_worker all "mkdir -p bert-vit-jax/trees/$commit && tar -xzf $archive -C bert-vit-jax/trees/$commit" ||
    fail "the tree cannot be unpacked on $name, see above: is a disk full?"
  on_worker all install "$commit" "$extras" || fail "not every host of $name is installed, see above"
}

newest_run() {
  local folder newest=''
  for folder in "$record"/*/; do
    [ ! -f "$folder/command" ] || newest=$(basename "$folder")
  done
  printf '%s' "$newest"
}

# Runs `command` on every host; the exit code is its own.
run() {
  local state
  choose_commit
  asked=''
  trap 'pending=INT' INT
  trap 'pending=TERM' TERM
  state=$(resource_state)
  if [ "$state" != ACTIVE ]; then
    if [ -n "$recreate" ] && is_gone "$state"; then
      recreate_resource
    elif is_gone "$state"; then
      fail "$name is ${state:-not there}: $(how_to_mend "$state")"
    else
      await_active
    fi
  fi
  until run_once; do
    say "$name was preempted"
    [ -n "$recreate" ] || fail "type the same with --recreate, and it comes back and goes on from the newest checkpoint"
    recreate_resource
  done
  exit "$code"
}

recreate_resource() {
  say "$name is ordered again"
  [ -n "$type" ] || mistake "how was $name created? add --type=TYPE, and --spot or --reserved"
  remove
  describe_type
  order
  await_active
}

# One life of the run; false if the TPU was taken away, else `code` is the command's exit code.
run_once() {
  local refused
  (send_tree) || {
    refused=$?
    if [ -n "$recreate" ] && is_gone "$(resource_state)"; then return 1; fi
    exit $refused
  }
  run_name=$(date -u +%Y%m%d-%H%M%S)-${commit:0:9}
  folder=$record/$run_name
  if [ -z "$dry_run" ]; then
    mkdir -p "$folder"
    quoted "${command[@]}" > "$folder/command"
    echo "$commit" > "$folder/commit"
  fi
  say "running on every host of $name; logs: ${folder#"$PWD"/}"
  if ! on_worker all start "$run_name" "$commit" "${command[@]}"; then
    stop_all TERM
    fail "the command did not start on every host, see above; it was stopped where it did"
  fi
  if [ -n "$dry_run" ]; then
    on_worker 0 follow "$run_name" 0
    on_worker all state "$run_name"
    code=0
    return
  fi
  follow_run || return 1
  keep_logs
  ! was_taken_away
}

# Whether the command ended because its hosts went away: they tell it to stop before the cloud says so.
was_taken_away() {
  local until=$SECONDS
  [ "$code" != 0 ] && [ -z "$asked" ] || return 1
  [ "$code" != 143 ] || until=$((SECONDS + patience))
  while ! is_gone "$(resource_state)"; do
    [ $SECONDS -lt "$until" ] || return 1
    nap 1
  done
}

stop_all() {
  on_worker all signal "$run_name" "$1" > /dev/null 2>> "$folder/gcloud.log" || true
}

# Shows the first worker's log until all have ended, whatever connections do; false if the TPU was taken away.
follow_run() {
  local log=$folder/worker-0.log failed_since='' lost_since='' states follower
  code=0
  touch "$log"
  while :; do
    set -m  # a process group of its own, so that it can be ended, and Ctrl-C does not reach it
    { on_worker 0 follow "$run_name" "$(wc -c < "$log" | tr -d ' ')" 2>> "$folder/gcloud.log" | tee -a "$log"; } < /dev/null &
    set +m
    follower=$!
    while kill -0 "$follower" 2> /dev/null; do
      attend "$follower"
    done
    while :; do
      hand_on_signal
      if states=$(on_worker all state "$run_name" 2>> "$folder/gcloud.log") && [ -n "$states" ]; then
        lost_since=''
        judge "$states" && return 0
        break
      fi
      check_lost || return 1
      nap "$poll_seconds"
    done
    nap 1
  done
}

# Waits a while beside the stream, and looks whether another host has failed, which the first may not notice.
attend() {
  local until=$((SECONDS + poll_seconds)) states
  while [ $SECONDS -lt $until ] && kill -0 "$1" 2> /dev/null; do
    hand_on_signal "$1"
    nap 0.5
  done
  kill -0 "$1" 2> /dev/null || return 0
  if states=$(on_worker all state "$run_name" 2>> "$folder/gcloud.log"); then
    judge "$states" || true
  elif is_gone "$(resource_state)"; then
    kill -- "-$1" 2> /dev/null || true
  fi
}

hand_on_signal() {
  [ -n "$pending" ] || return 0
  if [ -n "$asked" ]; then
    [ -z "${1:-}" ] || kill -- "-$1" 2> /dev/null || true
    say "detached: the command goes on to its end; tpu_setup/tpu logs $name"
    exit $((128 + $(kill -l "$pending")))
  fi
  asked=$pending pending=
  say "SIG$asked to every host; once more leaves them alone, and returns"
  stop_all "$asked"
}

# Whether all workers have ended; `code` is then 0, or that of the worker which was first seen to fail.
judge() {
  local host state value all=yes first=
  while read -r host state value; do
    case $state in
      ended) ;;
      running) all=''; continue ;;
      *) value=1 ;;
    esac
    if [ -z "$first" ] && [ "$value" != 0 ]; then
      first="$host $state with $value"
      [ "$code" != 0 ] || code=$value
    fi
  done <<< "$1"
  [ -z "$all" ] || return 0
  if [ -n "$first" ] && [ -z "$failed_since" ]; then
    failed_since=$SECONDS
    say "$first; the others get $patience s, then SIGTERM"
  elif [ -n "$first" ] && [ $((SECONDS - failed_since)) -ge "$patience" ]; then
    stop_all TERM
  fi
  return 1
}

# False if the TPU was taken away; ends where no connection comes about although it was not.
check_lost() {
  local state
  state=$(resource_state)
  ! is_gone "$state" || return 1
  lost_since=${lost_since:-$SECONDS}
  [ $((SECONDS - lost_since)) -lt $((10 * patience)) ] ||
    fail "$name is ${state:-not known to gcloud}, but cannot be reached: the command goes on; tpu_setup/tpu logs $name"
  say "connection to $name lost; the command goes on there, trying again"
}

# Copies the log of each worker here, eight at a time, and shows what the stream missed of the first one's.
# Those of a preempted TPU are gone, except what was shown.
keep_logs() {
  local count number shown
  shown=$(wc -c < "$folder/worker-0.log")
  count=$(count_workers) || return 0
  for ((number = 0; number < count; number++)); do
    keep_log "$number" &
    [ $((number % 8)) -ne 7 ] || wait
  done
  wait
  tail -c "+$((shown + 1))" "$folder/worker-0.log"
}

keep_log() {
  local target=$folder/worker-$1.log
  if on_worker "$1" log "$run_name" > "$target.new" 2>> "$folder/gcloud.log"; then
    mv "$target.new" "$target"
  else
    rm -f "$target.new"
  fi
}
