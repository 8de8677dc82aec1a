"""Pictures in, a picture out: python3 smsreply.py serve examples/pictures.py

Text it: python3 smsreply.py text Look --media https://abc.example/dog.png
"""

import smsreply


def reply(message):
    if not message.media:
        return "Send me a picture!"
    # Nothing is fetched.  To fetch a picture takes your account's credentials.
    types = ", ".join(content_type for url, content_type in message.media)
    response = smsreply.MessagingResponse()
    response.message(f"Thanks for {types}. Here is a cat.").media("https://abc.example/cat.jpg")
    return response


application = smsreply.App(reply)
