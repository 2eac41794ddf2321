#!/usr/bin/env bash
# One night: the audit of today, with the last complete night as baseline, tried again while it is
# not finished. Further arguments go to camaudit: nightly.sh dataset.root=photos model.name=resnet50
#
# Exit code: camaudit's. 0 complete, 1 settings or a bug, 2 the gate is broken, 3 the data,
# 75 not finished after all tries, 143 stopped.
set -uo pipefail
cd "${AUDIT_HOME:-.}" || exit 1

night=${NIGHT:-$(date +%F)}        # the same night again goes on where it was
arguments=("run_id=$night" hydra/job_logging=json "$@")
if [ -e outputs/latest/plan.parquet ]; then
  # Unchanged images are not computed again, and nothing may be worse than it was.
  arguments+=("baseline=outputs/$(readlink outputs/latest)" gate=strict)
fi

# A shell that waits would not pass a signal on, and camaudit could not put its shard away.
child=
trap '[ -z "$child" ] || kill -TERM "$child"' TERM INT
code=75
for ((try = 0; try < ${TRIES:-3} && code == 75; try++)); do
  [ "$try" = 0 ] || sleep "${WAIT:-300}"
  camaudit "${arguments[@]}" &
  child=$!
  wait "$child"
  code=$?
  if kill -0 "$child" 2>/dev/null; then  # a signal came first
    wait "$child"
    code=$?
  fi
done

[ "$code" != 0 ] || ln -sfn "$night" outputs/latest
exit "$code"
