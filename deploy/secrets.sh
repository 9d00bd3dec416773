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
valkey_users="api worker governor redispatcher exporter operator gateway"

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
for user in $valkey_users; do keep "valkey_password_$user"; done
keep grafana_password

# The key of a gateway for the exporter's own orders; empty: it posts none.
[ -e "$folder/heartbeat_key" ] || write heartbeat_key ""

owner=$(cat "$folder/postgres_password")
app=$(cat "$folder/postgres_app_password")
write postgres_owner_dsn "postgresql://tidegate:$owner@postgres:5432/tidegate"
# `_chaos`: the same servers by way of toxiproxy; see ROUTE in compose.env.example.
write postgres_dsn "postgresql://tidegate_app:$app@postgres:5432/tidegate"
write postgres_dsn_chaos "postgresql://tidegate_app:$app@toxiproxy:5432/tidegate"
# Valkey's users: a line for each of valkey/users.acl, with its password.
acl=$(awk '/^(#|$)/ { next }
           /^ / { sub(/^ +/, ""); printf " %s", $0; next }
           { printf "%s%s", end, $0; end = "\n" }' "$(dirname "$0")/valkey/users.acl")
for user in $valkey_users; do
    password=$(cat "$folder/valkey_password_$user")
    acl=$(printf '%s\n' "$acl" | sed "s/@$user@/$password/")
    write "valkey_url_$user" "redis://tidegate-$user:$password@valkey:6379/0"
    write "valkey_url_${user}_chaos" "redis://tidegate-$user:$password@toxiproxy:6379/0"
done
write valkey_acl "$acl"
