#!/bin/sh
# Runs a separate Docker engine in the foreground, with all of its files in one folder. Requires root.
#
#   deploy/setup/dockerd.sh FOLDER    listens at unix://FOLDER/docker.sock; SIGTERM stops it and its containers
set -eu
folder=$1
exec dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/dockerd.pid" \
    --host "unix://$folder/docker.sock"
