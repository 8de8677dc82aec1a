# gunicorn --config examples/hosts/gunicorn.conf.py bot:application
#
# Answers at the prefix /shop, which a proxy keeps.  If the proxy strips it, drop raw_env, and give
# App public_url="https://abc.example/shop".  SMSREPLY_PUBLIC_URL counts for smsreply:application
# only: an App of yours is given its public_url where it is made.
#
# SIGTERM: workers with threads answer whoever has connected, for 30 seconds (graceful_timeout).
# Without threads, whoever waits for a worker is lost.  Whoever comes back for a late answer is
# lost in both, until a server is there again.  SIGHUP: new workers take over without a gap.
bind = "127.0.0.1:8767"
threads = 64
# Two workers or more share a cache: give App cache=smsreply.SQLiteCache("/srv/bot/messages.sqlite").
workers = 1
raw_env = ["SCRIPT_NAME=/shop"]
# A GET may be longer than gunicorn's 4 kB.  Better, have Twilio send POST.
limit_request_line = 8190
