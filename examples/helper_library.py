"""From Twilio's helper library: change two imports: python3 smsreply.py serve examples/helper_library.py

The same bytes come out.  Return the response itself, or str(response), as before.  For a Flask
program that checks signatures in a decorator, it is enough too; from_flask.py goes further.
"""

# from twilio.request_validator import RequestValidator
# from twilio.twiml.messaging_response import MessagingResponse
from smsreply import MessagingResponse


def reply(message):
    response = MessagingResponse()
    response.message("The Robots are coming! Head for the hills!", to=message.from_)
    return str(response)
