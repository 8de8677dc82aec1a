"""Stage 1: a webhook is a program that answers HTTP.

When somebody texts your number, Twilio connects to your program and sends a request.  Your
program sends an answer.  The answer's body is TwiML, and the person gets what it says.

Still wrong: the program does not know what the person wrote.
"""
# check: repeats

import os
import socket

TWIML = b"<Response><Message>I'm busy questing right now!</Message></Response>"

# Twilio reads the body as TwiML, because its type is XML.
ANSWER = b"""\
HTTP/1.1 200 OK\r
Content-Type: text/xml\r
Content-Length: %d\r
Connection: close\r
\r
%s""" % (len(TWIML), TWIML)


def read(connection):
    """Return the request: the line that says what is wanted, the headers, the body."""
    stream = connection.makefile("rb")
    head, length = [], 0
    while (line := stream.readline()).strip():  # an empty line ends the headers
        head.append(line)
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return b"".join(head) + b"\n" + stream.read(length)


def serve(port):
    """Answer one connection after the other, for ever."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                request = read(connection).decode()
                if not request.strip():  # a browser connects ahead, and asks nothing
                    continue
                print(request)
                connection.sendall(ANSWER)


if __name__ == "__main__":
    serve(int(os.environ.get("PORT", "8767")))
