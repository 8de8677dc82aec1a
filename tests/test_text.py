"""``smsreply text``: what it sends, what it prints, and with which status it ends."""

from __future__ import annotations

import io
import os
import re
import subprocess
import threading
from urllib.parse import parse_qsl

import pytest
from conftest import PYTHON, ROOT, TOKEN
from test_phone import HELLO, RawServer, sized, wire

import smsreply
from smsphone import Phone
from smsphone.command import main
from smsphone.errors import ERRORS

ESCAPE = "\x1b]0;title\x07\x1b[2J\x1b[31mred\x9b1m\u202etxt.exe\r\b"
EVIL = ESCAPE.encode()


@pytest.fixture
def serve():
    """Serve a handler, as ``smsreply serve`` does, or raw answers; return the URL."""
    servers, stop = [], []

    def start(*answers):
        if isinstance(answers[0], bytes):
            servers.append(RawServer(*answers))
            stop.append(servers[-1].close)
            return servers[-1].url
        app = smsreply.App({"/sms": answers[0]}, auth_token=TOKEN)
        server = smsreply.development_server(app, "127.0.0.1", 0)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        stop.extend([server.shutdown, server.server_close])
        return f"http://127.0.0.1:{server.server_port}/sms"

    start.servers = servers
    yield start
    for call in stop:
        call()


@pytest.fixture
def text(capsys, monkeypatch):
    """Run ``smsreply text``; return its status, and the lines of both of its outputs."""
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", TOKEN)

    def run(url, *arguments, stdin="", terminal=False):
        file = io.StringIO(stdin)
        file.isatty = lambda: terminal
        monkeypatch.setattr("sys.stdin", file)
        status = smsreply.main(["text", "--webhook", url, *arguments])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


def program(*arguments, stdin="", **env):
    """Run ``smsreply text`` as a program; return its status and outputs."""
    done = subprocess.run(
        [PYTHON, ROOT / "smsreply.py", "text", *arguments],
        input=stdin if isinstance(stdin, bytes) else stdin.encode(),
        capture_output=True,
        check=False,
        env={**os.environ, "TWILIO_AUTH_TOKEN": TOKEN, "PYTHONIOENCODING": "utf-8", **env},
        timeout=20,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def show(message):
    """Answer with the parameters that are asked for by name."""
    return "\n".join(f"{name}={message.get(name)}" for name in message.body.split())


@pytest.mark.parametrize(
    ("reply", "lines"),
    [
        ("Hello", ["Hello"]),
        ("café 😀", ["café 😀"]),
        ("one\ntwo\n\nfour", ["one", "two", "", "four"]),
        (None, []),
        (["one", "two"], ["one", "two"]),
        (
            smsreply.RawTwiML("<Response><Message>look<Media>//a.example/1.png</Media></Message></Response>"),
            ["look", "http://a.example/1.png"],
        ),
    ],
)  # fmt: skip
def test_the_reply_is_printed_and_the_status_is_0(reply, lines, serve, text):
    assert text(serve(lambda message: reply), "hello") == (0, lines, [])


@pytest.mark.parametrize(
    ("options", "names", "values"),
    [
        ([], "From To NumMedia", ["+15005550001", "+15005550006", "0"]),
        (["--from", "+14017122661", "--to", "+15558675310"], "From To", ["+14017122661", "+15558675310"]),
        (["--from", "whatsapp:+1401"], "From To WaId", ["whatsapp:+1401", "whatsapp:+15005550006", "1401"]),
        (
            ["--media", "https://a.example/1.png", "--media", "https://a.example/2.mp4"],
            "NumMedia MediaUrl0 MediaContentType0 MediaUrl1 MediaContentType1",
            ["2", "https://a.example/1.png", "image/png", "https://a.example/2.mp4", "video/mp4"],
        ),
        (["--param", "ProfileName=Ada=1 ", "--param", "ToCity="], "ProfileName ToCity", ["Ada=1 ", ""]),
        (["--param", "From=+1999"], "From", ["+1999"]),
        (["--get"], "NumMedia", ["0"]),
    ],
)  # fmt: skip
def test_the_options_are_what_is_sent(options, names, values, serve, text):
    expected = [f"{name}={value}" for name, value in zip(names.split(), values)]
    assert text(serve(show), names, *options) == (0, expected, [])


@pytest.mark.parametrize("name", ["body", "media", "self", "params", "method", "signature"])
def test_a_parameter_may_have_any_name(name, serve, text):
    assert text(serve(show), name, "--param", f"{name}=1") == (0, [f"{name}=1"], [])


def test_get_sends_a_get(serve, text):
    url = serve(sized())
    text(url + "?shop=1", "hello", "--get")
    assert serve.servers[0].requests[0].startswith(b"GET /sms?shop=1&ToCountry=US&")
    text(url, "hello")
    assert serve.servers[0].requests[1].startswith(b"POST /sms HTTP/1.1\r\n")


def test_a_shared_keys_settings_are_signed_with_and_sent(serve, text):
    settings = "key=SK0123,algorithm=HMAC_SHA256"
    url = serve(sized())
    assert text(url, "hello", "--signature-settings", settings) == (0, ["Hello"], [])
    head = serve.servers[0].requests[0].partition(b"\r\n\r\n")[0]
    assert f"X-Twilio-Webhooks-Signature-Settings: {settings}".encode() in head
    assert re.search(rb"X-Twilio-Signature: [^\r]{44}\r", head)  # SHA-256, in base64


def test_replay_sends_each_saved_message_to_the_webhook(serve, text, tmp_path):
    file = tmp_path / "saved.jsonl"
    url = serve(sized())
    for body in ("one", "two & three"):
        Phone(url, auth_token=TOKEN).text(body).save(file)
    assert text(url, "--replay", str(file)) == (0, ["Hello", "Hello"], [])
    sent = [request.partition(b"\r\n\r\n")[2] for request in serve.servers[0].requests]
    assert sent[:2] == sent[2:]


@pytest.mark.parametrize("code", [11200, 14109, 57012])
def test_explain_tells_what_a_code_means_and_what_helps(code, capsys):
    assert smsreply.main(["explain", str(code)]) == 0
    level, meaning, cure = ERRORS[code]
    out, err = capsys.readouterr()
    assert (out.splitlines(), err) == ([f"{code} ({level}): {meaning}", f"What to do: {cure}"], "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "5"], "5 is not an error code that a webhook for messages can meet"),
        (["explain", "abc"], "'abc' is not an error code: these are numbers"),
        (["explain", "-1"], ""),
        (["explain"], "explain needs an error code, or --url"),
        (
            ["explain", "11200", "--url", "http://a.example/"],
            "an error code or --url, and not both",
        ),
        (["phone", "--port", "99999"], "invalid port number value: '99999'"),
    ],
)
def test_what_is_no_code_or_port_is_said_with_status_2(arguments, says, capsys):
    try:
        status = smsreply.main(arguments)
    except SystemExit as done:  # as argparse ends
        status = done.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert says in err


def test_of_an_exercise_that_is_not_utf_8_python_says_so(tmp_path):
    file = tmp_path / "stage.py"
    file.write_bytes(b"# check: replies\n'\xff'\n")
    command = [PYTHON, ROOT / "smsreply.py", "check", file]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2
    assert "SyntaxError" in done.stderr
    assert f"smsreply: {file} ended with status 1" in done.stderr


@pytest.mark.parametrize("command", ["text", "phone", "explain", "check"])
def test_help_says_what_each_option_is_for(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    options = capsys.readouterr().out.partition("\n\n")[2]
    for line in re.findall(r"^  (--?\w.*(?:\n {10,}.*)*)", options, re.M):
        assert len(re.sub(r"^.*?(  |\n) +", "", line)) > 10, line


def test_media_needs_no_text(serve, text):
    url = serve(sized())
    assert text(url, "--media", "https://a.example/1.png", stdin="not read") == (0, ["Hello"], [])
    assert b"&Body=&" in serve.servers[0].requests[0]
    assert len(serve.servers[0].requests) == 1


def test_an_empty_text_is_sent(serve, text):
    assert text(serve(lambda message: repr(message.body)), "") == (0, ["''"], [])


def test_verbose_prints_both_sides_of_the_wire_and_the_string_that_was_signed(serve, text):
    status, lines, _ = text(serve(lambda message: "Hello"), "a & b", "--verbose")
    assert status == 0
    sent = [line[2:] for line in lines if line.startswith("> ")]
    got = [line[2:] for line in lines if line.startswith("< ")]
    headers = dict(line.split(": ", 1) for line in sent[1:-2])
    fields = parse_qsl(sent[-1], keep_blank_values=True)
    assert sent[0] == "POST /sms HTTP/1.1"
    assert ("Body", "a & b") in fields
    [signed] = [line.split(": ", 1)[1] for line in lines if line.startswith("  signed: ")]
    url = f"http://{headers['Host']}/sms"
    assert signed == url + "".join(name + value for name, value in sorted(fields))
    validator = smsreply.RequestValidator(TOKEN)
    assert validator.validate(url, fields, headers["X-Twilio-Signature"])
    assert re.match(r"HTTP/1.[01] 200 OK$", got[0])
    assert got[-1].endswith("<Response><Message>Hello</Message></Response>")
    assert re.match(r"  after 0\.\d{3} s of 15$", lines[-2])
    assert lines[-1] == "Hello"


def test_without_a_token_verbose_says_that_nothing_is_signed(serve, text, monkeypatch):
    monkeypatch.delenv("TWILIO_AUTH_TOKEN")
    _, lines, _ = text(serve(sized()), "hello", "--verbose")
    assert "  signed: nothing, as there is no token" in lines
    assert not [line for line in lines if "X-Twilio-Signature" in line]


@pytest.mark.parametrize("by", ["option", "environment"])
def test_the_public_url_is_what_is_signed(serve, text, monkeypatch, by):
    options = ["--public-url", "https://abc.example"] if by == "option" else []
    if by == "environment":
        monkeypatch.setenv("SMSREPLY_PUBLIC_URL", "https://abc.example")
    _, lines, _ = text(serve(sized()), "x", "--verbose", *options)
    [signed] = [line for line in lines if line.startswith("  signed: ")]
    assert signed.startswith("  signed: https://abc.example/smsAccountSid")


# ---------------------------------------------------------------------- A conversation


def count(message):
    message.session["n"] = message.session.get("n", 0) + 1
    return f"{message.session['n']}: {message.body}"


def test_a_conversation_is_a_text_a_line_and_keeps_its_cookies(serve, text):
    lines = ["1: one", "2: two words ", "3: ", "4: é"]
    assert text(serve(count), stdin="one\ntwo words \n\r\né") == (0, lines, [])


def test_a_conversation_asks_at_a_terminal_only(serve, text):
    assert text(serve(count), stdin="one\n", terminal=True)[1] == ["> 1: one", "> "]
    assert text(serve(count), stdin="") == (0, [], [])


def test_a_conversation_goes_on_after_an_error_which_is_its_status(serve, text):
    url = serve(wire(status=b"500 Oops"), sized())
    status, lines, errors = text(url, stdin="one\ntwo\n")
    assert (status, lines) == (1, ["Hello"])
    assert [error[:15] for error in errors] == ["smsreply: 11217"]


# ------------------------------------------------------------------- What can go wrong


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (wire(status=b"403 Forbidden"), 11217), (b"SSH-2.0\r\n", 11206), (b"", 11205),
        (wire(b"<Response>"), 12100), (wire(b"<Response><Sai/></Response>"), 12200),
        (wire(head=b""), 12300), (wire(b"<Response><Message/></Response>"), 14103),
        (wire(b"<Response><Redirect/></Response>"), 14106), (wire(b" " * 70_000), 11750),
    ],
)  # fmt: skip
def test_the_error_is_on_stderr_with_its_code_meaning_and_cure(answer, code, serve, text):
    status, lines, errors = text(serve(answer), "hello")
    _, meaning, cure = ERRORS[code]
    assert (status, lines, len(errors)) == (1, [], 1)
    assert re.fullmatch(rf"smsreply: {code}: {re.escape(meaning)}.*: {re.escape(cure)}", errors[0])


def test_what_was_sent_before_an_error_is_printed(serve, text):
    answer = sized(b"<Response><Message>one</Message><Message/></Response>")
    status, lines, errors = text(serve(answer), "hello")
    assert (status, lines, len(errors)) == (1, ["one"], 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--webhook", "nonsense"], "smsreply: 'nonsense' is not a URL like https://abc.example/sms"),
        (["--public-url", "ftp://x"], "smsreply: 'ftp://x' is not a URL like https://abc.example/sms"),
        (["--param", "Body"], "smsreply: 'Body' is not like NAME=VALUE"),
        (["--param", "=1"], "smsreply: '=1' is not like NAME=VALUE"),
        (["--replay", "file"], "smsreply: --replay sends what FILE has: leave out the text, --media and --param"),
        (["--signature-settings", "algorithm=MD5"], "smsreply: 'MD5' is neither HMAC_SHA1 nor HMAC_SHA256"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_status_2_and_one_line(arguments, says, text):
    assert text("http://localhost:1/sms", "hello", *arguments) == (2, [], [says])


def test_a_file_to_replay_that_is_not_there_is_status_2_and_one_line(text):
    says = "smsreply: cannot read /no/such/file: No such file or directory"
    assert text("http://localhost:1/sms", "--replay", "/no/such/file") == (2, [], [says])


@pytest.mark.parametrize("options", [[], ["--verbose"]])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(sized(EVIL, b"Content-Type: text/plain\r\n"), id="a text"),
        pytest.param(sized(b"<Response><Message>\xc2\x9b31m\xe2\x80\xae\xc2\x85</Message></Response>"), id="a message"),
        pytest.param(sized(b"<Response><Message><Media>/\xc2\x9b31m</Media></Message></Response>"), id="media"),
        pytest.param(sized(b"<Response><\xcc\x80\xe2\x80\xae/></Response>"), id="a verb"),
        pytest.param(sized(b'<Response><Message a="\xe2\x80\xae" to="&#x9b;31m">x</Message></Response>'), id="attributes"),
        pytest.param(sized(b"<Response><Redirect>x:\xc2\x9b31m</Redirect></Response>"), id="a redirect"),
        pytest.param(sized(b'<Response><Redirect method="\xc2\x9b31m">/</Redirect></Response>'), id="a method"),
        pytest.param(sized(b"<?xml version='1.0' encoding='\x1b[31m'?><Response/>"), id="an encoding"),
        pytest.param(sized(EVIL), id="a document"),
        pytest.param(sized(HELLO, b"Content-Type: text/\x1b[31m\xc2\x9b\r\n"), id="a type"),
        pytest.param(sized(HELLO, b"Content-Type: text/xml\r\nSet-Cookie: a=\x1b[31m\x9b\r\n"), id="a cookie"),
        pytest.param(sized(HELLO, b"Content-Type: text/xml\r\nX-Evil: \x1b[31m\x9b\r\n"), id="a header"),
        pytest.param(wire(head=b"Location: x:\x1b[31m\x9b\r\n", status=b"302 F"), id="a location"),
        pytest.param(wire(head=b"Location: /\x1b[31m\x9b\r\n", status=b"302 F"), id="a place"),
        pytest.param(wire(status=b"200 \x1b[31m\x9b"), id="a reason"),
        pytest.param(wire(status=b"2\x1b[31m\x9b"), id="a status"),
        pytest.param(EVIL, id="no HTTP"),
    ],
)  # fmt: skip
def test_nothing_of_the_answer_reaches_the_terminal_unescaped(answer, options, serve, text):
    _, lines, errors = text(serve(answer), "hello", *options)
    assert lines or errors
    assert [line for line in lines + errors if not line.isprintable()] == []


# ----------------------------------------------------------------------- As a program


def test_the_program_prints_the_reply_and_its_status_says_how_it_went(serve):
    url = serve(lambda message: message.body.upper())
    assert program("hello", "--webhook", url) == (0, "HELLO\n", "")
    status, out, error = program("hello", "--webhook", url, TWILIO_AUTH_TOKEN="other")
    assert (status, out) == (1, "")
    assert error.startswith("smsreply: 11217: ") and "403" in error and error.count("\n") == 1


def test_the_program_converses_with_what_is_piped_into_it(serve):
    done = program("--webhook", serve(count), stdin="one\ntwo\n")
    assert done == (0, "1: one\n2: two\n", "")


@pytest.mark.skipif(os.name != "posix", reason="needs a pipe that ends")
@pytest.mark.parametrize("arguments", [["text", "hello", "--verbose"], ["explain", "11200"]])
def test_the_program_ends_without_a_word_where_nobody_reads_its_output(arguments, serve):
    if arguments[0] == "text":
        arguments = [*arguments, "--webhook", serve(sized())]
    reader, writer = os.pipe()
    os.close(reader)
    command = [PYTHON, ROOT / "smsreply.py", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=20)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_without_the_character_shows_it_escaped(serve):
    url = serve(lambda message: "café 😀")
    done = program("hello", "--webhook", url, PYTHONIOENCODING="ascii")
    assert done == (0, "caf\\xe9 \\U0001f600\n", "")


def test_input_that_is_not_utf_8_is_sent_all_the_same(serve):
    url = serve(lambda message: "Hello")
    for arguments, stdin in (([], b"caf\xe9\n"), ([b"caf\xe9"], b"")):
        assert program(*arguments, "--webhook", url, stdin=stdin) == (0, "Hello\n", "")
