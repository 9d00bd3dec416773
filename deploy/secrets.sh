#!/bin/sh
# Makes the secrets that compose.yaml reads, each in a file of its own:
#     sh deploy/secrets.sh            into deploy/secrets, which git and the image leave out
# A password that is there stays; what is spelled from passwords is spelled anew.
set -eu
folder=${1:-$(dirname "$0")/secrets}
umask 077
# Nobody else on this host may pass this folder. The files themselves can be read by all: compose
# mounts them as they are, and the containers' users are other than yours.
mkdir -p "$folder"

write() { # name, text
    printf '%s\n' "$2" > "$folder/$1"
    chmod 644 "$folder/$1"
}

keep() { # name of a random secret
    [ -s "$folder/$1" ] || write "$1" "$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')"
}

keep master_key
keep postgres_password
keep postgres_app_password
keep valkey_password
keep grafana_password

# The key of a gateway for the exporter's own orders; empty: it posts none.
[ -e "$folder/heartbeat_key" ] || write heartbeat_key ""

owner=$(cat "$folder/postgres_password")
app=$(cat "$folder/postgres_app_password")
valkey=$(cat "$folder/valkey_password")
write postgres_owner_dsn "postgresql://tidegate:$owner@postgres:5432/tidegate"
# `_chaos`: the same servers by way of toxiproxy; see ROUTE in compose.env.example.
write postgres_dsn "postgresql://tidegate_app:$app@postgres:5432/tidegate"
write postgres_dsn_chaos "postgresql://tidegate_app:$app@toxiproxy:5432/tidegate"
write valkey_url "redis://tidegate:$valkey@valkey:6379/0"
write valkey_url_chaos "redis://tidegate:$valkey@toxiproxy:6379/0"
# No user may empty or reconfigure the server; `health` may ask whether it lives.
write valkey_acl "user default off
user tidegate on >$valkey ~* &* +@all -@admin -@dangerous +info
user health on nopass +ping"
