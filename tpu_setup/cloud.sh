# shellcheck shell=bash disable=SC2154
# gcloud: orders, states, deletions, and commands on hosts. Read by `tpu`, whose options are variables here.

# shellcheck disable=SC2034  # read by the others
records=${TPU_RECORDS:-$root/runs/tpu}
poll_seconds=${TPU_POLL_SECONDS:-15}

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
mistake() { printf 'error: %s\n' "$*" >&2; exit 2; }

# gcloud with the place put in; --dry_run prints it instead.
cloud() {
  local line=(gcloud "$@")
  [ -z "$zone" ] || line+=("--zone=$zone")
  [ -z "$project" ] || line+=("--project=$project")
  if [ -n "$dry_run" ]; then
    printf '%q ' "${line[@]}" | sed 's/ $//' >&3
    echo >&3
  else
    "${line[@]}"
  fi
}
exec 3>&1

# What gcloud answers to a question; in a dry run, which asks nothing, the first argument.
ask() {
  local expected=$1
  shift
  if [ -n "$dry_run" ]; then
    cloud "$@"
    printf '%s\n' "$expected"
  else
    cloud "$@" 2> /dev/null || true
  fi
}

# The accelerator type and the system image of a type as one orders it.
# Source: https://cloud.google.com/tpu/docs/runtimes
describe_type() {
  local image
  case $type in
    v4-[1-9]*) accelerator=$type image=tpu-ubuntu2204-base ;;
    v5e-[1-9]*) accelerator=v5litepod-${type#v5e-} image=v2-alpha-tpuv5-lite ;;
    v5p-[1-9]*) accelerator=$type image=v2-alpha-tpuv5 ;;
    v6e-[1-9]*) accelerator=$type image=v2-alpha-tpuv6e ;;
    *) mistake "--type=$type: expected v4-N, v5e-N, v5p-N or v6e-N, such as v5e-16" ;;
  esac
  case ${type#*-} in
    *[!0-9]*) mistake "--type=$type: expected a number after the -, such as ${type%%-*}-16" ;;
  esac
  runtime=${runtime:-$image}
}

# Orders the TPU as a queued resource, and notes how, so that it can be ordered again.
order() {
  local flags=("--node-id=$name" "--accelerator-type=$accelerator" "--runtime-version=$runtime") key
  [ -z "$tier" ] || flags+=("--$tier")
  [ -z "$valid_until" ] || flags+=("--valid-until-duration=$valid_until")
  [ -z "$service_account" ] || flags+=("--service-account=$service_account")
  [ -z "$network" ] || flags+=("--network=$network")
  [ -z "$subnetwork" ] || flags+=("--subnetwork=$subnetwork")
  [ -z "$internal_ips" ] || flags+=(--internal-ips)
  if [ -z "$dry_run" ]; then  # before it exists: what is ordered must be known here, even if this is killed
    mkdir -p "$record"
    [ ! -f "$record/order" ] || cp "$record/order" "$record/order.before"
    for key in type zone project runtime tier valid_until service_account network subnetwork internal_ips; do
      printf '%s=%s\n' "$key" "${!key}"
    done > "$record/order"
  fi
  cloud compute tpus queued-resources create "$name" "${flags[@]}" --quiet || explain_refusal $?
}

explain_refusal() {
  rm -f "$record/order"
  [ ! -f "$record/order.before" ] || [ -z "$(resource_state)" ] || mv "$record/order.before" "$record/order"
  fail "$name was not ordered, see above (gcloud's exit code $1). If it is:
  a quota          --spot and other zones have quotas of their own; ask for more at https://console.cloud.google.com/iam-admin/quotas
  a zone or type   gcloud compute tpus locations list
                   gcloud compute tpus accelerator-types list --zone=ZONE
  permission       you need the role TPU Admin: see tpu_setup/README.md
  already exists   tpu_setup/tpu status, then tpu_setup/tpu delete $name"
}

# Options of this TPU that were not given again: from its order, else from gcloud's configuration.
recall_order() {
  local key value
  if [ -f "$record/order" ]; then
    while IFS='=' read -r key value; do
      [ -n "${!key}" ] || printf -v "$key" '%s' "$value"
    done < "$record/order"
  fi
  if [ -z "$zone" ] && [ -z "$dry_run" ]; then
    zone=$(gcloud config get-value compute/zone 2> /dev/null || true)
  fi
  [ -n "$zone" ] || mistake "in which zone is $name? It was not created from here: add --zone=ZONE"
}

# Empty where there is no such queued resource, or it cannot be asked.
resource_state() {
  ask ACTIVE compute tpus queued-resources describe "$name" '--format=value(state.state)'
}

# Whether a state means that the TPU is not there and will not come by itself. Where gcloud merely does not answer, no.
is_gone() {
  case $1 in
    SUSPENDING | SUSPENDED | FAILED | DELETING) return 0 ;;
    '') is_missing queued-resources ;;
    *) return 1 ;;
  esac
}

# Whether gcloud says that there is none, of queued-resources or tpu-vm.
is_missing() {
  local answer
  ! answer=$(cloud compute tpus "$1" describe "$name" '--format=value(name)' 2>&1) || return 1
  grep -qi 'not.found' <<< "$answer"
}

how_to_mend() {
  case $1 in
    SUSPENDED | SUSPENDING) echo "it was preempted; tpu_setup/tpu run $name --recreate -- COMMAND brings it back" ;;
    '') echo "tpu_setup/tpu create $name --type=TYPE --zone=ZONE, or is it in another zone or project than $zone?" ;;
    FAILED) echo "tpu_setup/tpu delete $name, then create it again, in another zone or with --spot" ;;
    *) echo "wait; tpu_setup/tpu status shows when it is ACTIVE" ;;
  esac
}

await_active() {
  local state='' before=
  while :; do
    state=$(resource_state)
    [ "$state" = "$before" ] || say "$name: ${state:-not there yet}"
    before=$state
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDED)
        cloud compute tpus queued-resources describe "$name" '--format=yaml(state)' >&2 || true
        fail "the order of $name came to nothing ($state): $(how_to_mend "$state")"
        ;;
    esac
    nap "$poll_seconds"
    if [ -n "$pending" ]; then
      say "the order stays in the queue: tpu_setup/tpu status; tpu_setup/tpu delete $name"
      exit $((128 + $(kill -l "$pending")))
    fi
  done
}

# Sleeps, but hears signals at once.
nap() {
  sleep "$1" &
  wait $! || true
}

# Deletes the order with its hosts, and makes sure that neither is left.
remove() {
  local kind
  cloud compute tpus queued-resources delete "$name" --force --quiet || true
  [ -z "$dry_run" ] || return 0
  is_missing tpu-vm || cloud compute tpus tpu-vm delete "$name" --quiet || true  # made without an order
  for kind in queued-resources tpu-vm; do
    is_missing "$kind" ||
      fail "$name may still be there, and billed: see above; then tpu_setup/tpu status, and type the same again"
  done
}

count_workers() {
  ask 10.0.0.1 compute tpus tpu-vm describe "$name" '--flatten=networkEndpoints[]' \
    '--format=value(networkEndpoints.ipAddress)' | grep -c .
}

# Runs a command line on one worker, or on all.
ssh_worker() {
  cloud compute tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2" \
    '--ssh-flag=-o ServerAliveInterval=15' '--ssh-flag=-o ServerAliveCountMax=4' --quiet
}

quoted() {
  local text
  printf -v text '%q ' "$@"
  printf '%s' "${text% }"
}

# All that exists in a project, wherever it is.
list_everything() {
  local kept_zone=$zone zones one
  zone=
  if [ -n "$kept_zone" ]; then
    zones=$kept_zone
  elif [ -n "$dry_run" ] || cloud compute tpus tpu-vm list --zone=- > /dev/null 2>&1; then
    zones=-
  else  # where gcloud does not take - for all zones
    zones=$(ask ZONE compute tpus locations list '--format=value(locationId)')
    [ -n "$zones" ] || fail "gcloud lists no zones: gcloud auth login; gcloud config set project ID"
  fi
  printf '%-22s %-9s %-7s %-24s %-16s %s\n' STATE BILLED KIND NAME TYPE ZONE
  for one in $zones; do
    list_zone "$one"
  done
  zone=$kept_zone
}

list_zone() {
  local place=$1 path state kind
  {
    cloud compute tpus queued-resources list "--zone=$place" \
      '--format=csv[no-heading](name,state.state,tpu.nodeSpec[0].node.acceleratorType)' | sed 's/^/order,/'
    cloud compute tpus tpu-vm list "--zone=$place" \
      '--format=csv[no-heading](name,state,acceleratorType)' | sed 's/^/hosts,/'
  } | while IFS=, read -r kind path state type; do
    print_resource "$kind" "$path" "$state" "$type" "$place"
  done
}

# Hosts are billed from READY on; an order is not billed, but holds quota.
print_resource() {
  local billed=no shown=$5
  case $1-$3 in
    hosts-STOPPED | hosts-PREEMPTED | hosts-TERMINATED) billed=disk ;;
    hosts-*) billed=yes ;;
  esac
  case $2 in projects/*/locations/*) shown=${2#*/locations/} shown=${shown%%/*} ;; esac
  printf '%-22s %-9s %-7s %-24s %-16s %s\n' "$3" "$billed" "$1" "${2##*/}" "$4" "$shown"
}

check_account() {
  [ -z "$dry_run" ] || return 0
  local account
  account=$(gcloud config get-value account 2> /dev/null || true)
  [ -n "$account" ] || fail "gcloud has no account: gcloud auth login"
  [ -n "$project" ] || [ -n "$(gcloud config get-value project 2> /dev/null || true)" ] ||
    fail "gcloud has no project: gcloud config set project ID"
  say "ok      gcloud works for $account"
}
