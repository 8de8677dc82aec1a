"""gunicorn --bind 127.0.0.1:8767 --threads 64 flask_view:app

A view of your own: smsreply checks the signature, and the view answers.  The Receiver reads the
body, so nothing may read request.form before.  Behind a proxy, pass public_url.
"""

from flask import Flask, request

import smsreply

app = Flask(__name__)
twilio = smsreply.Receiver()


@app.route("/shop/sms", methods=["GET", "POST"])
def sms():
    try:
        message = twilio.receive(request.environ)
    except smsreply.Refused as refused:  # it is in the log, with the reason
        return str(refused), refused.status, {"Content-Type": "text/plain"}
    response = smsreply.MessagingResponse()
    response.message(f"{message.url} {message.body}")
    return str(response), {"Content-Type": "text/xml"}
