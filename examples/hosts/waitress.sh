#!/bin/sh
# sh examples/hosts/waitress.sh
#
# Behind a proxy that says what it saw.  smsreply serve --production is waitress too, and answers
# what is in flight when it is stopped.
exec waitress-serve --listen 127.0.0.1:8767 --url-prefix /shop --trusted-proxy 127.0.0.1 \
    --trusted-proxy-headers 'x-forwarded-proto x-forwarded-host' bot:application
