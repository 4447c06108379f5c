#!/bin/bash
# On a spot node of AWS, beside Ray: hands AWS's notice, two minutes before it takes the node back, on to Ray. No trial is
# started there any more, and those that run there go on elsewhere without counting it as a crash of theirs.
# RAY_ADDRESS is the head's HOST:PORT. On a node on demand there is never a notice.
set -u
metadata=${METADATA:-http://169.254.169.254/latest}

while sleep "${EVERY:-5}"; do
    token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token") || continue
    curl -sf -m 2 -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action" || continue
    break
done
exec ray drain-node --address "$RAY_ADDRESS" --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message 'AWS takes this spot node back' --deadline-remaining-seconds 110
