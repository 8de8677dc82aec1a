#!/bin/sh
# sh examples/hosts/granian.sh
exec granian --interface wsgi --host 127.0.0.1 --port 8767 --url-path-prefix /shop bot:application
