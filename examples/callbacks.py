"""What becomes of a reply: python3 smsreply.py serve examples/callbacks.py:paths

A mapping serves several paths.  A status callback often has no From, and wants no reply.
"""

import smsreply


def reply(message):
    response = smsreply.MessagingResponse()
    desk = "Sales" if message.to == "+15558675310" else "Support"
    response.message(f"{desk} will call you.", status_callback="/status")
    return response


def on_status(message):
    print(f"{message.sid} is {message['MessageStatus']}", flush=True)


paths = {"/sms": reply, "/status": on_status}
application = smsreply.App(paths)
