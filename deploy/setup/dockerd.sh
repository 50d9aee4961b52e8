#!/bin/sh
# Runs a Docker engine of our own in the foreground, with all that it keeps in one folder. Needs root.
#
#   deploy/setup/dockerd.sh FOLDER    answers at unix://FOLDER/docker.sock; SIGTERM ends it and its containers
set -eu
folder=$1
exec dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/dockerd.pid" \
    --host "unix://$folder/docker.sock"
