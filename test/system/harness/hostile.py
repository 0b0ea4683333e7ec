"""Requests that a server could read in more than one way, and what ours answers.

FORMS: (name, bytes, answers). Behind the bytes stands a clean request of its own. `answers` are the statuses in
their order; a "." at the end says that the connection ends there, so that what stands behind is never read; "+" is
what a POST of a message gets (200 from operator-sim, 404 elsewhere).
"""

GET = b"GET /healthz HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
END = b"\r\n"
POST = b"POST /messages HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"reference":"r","to":"0912","text":"x","type":"normal"}'
SIZE = b"%x" % len(BODY)
LAST = b"0\r\n\r\n"
REFUSED = "400."
LARGE = "431."


def get(headers=b"", line=GET):
    return line + HOST + headers + END


def post(headers, body=BODY):
    return POST + headers + END + body


def sized(value, body=BODY):
    """A POST whose Content-Length is written like this."""
    return post(b"Content-Length:" + value + END, body)


def encoded(value, body=SIZE + END + BODY + END + LAST):
    return post(b"Transfer-Encoding:" + value + END, body)


def chunk(size, end=END, data=BODY, after=END, last=LAST):
    """A POST whose only chunk's size is written like this."""
    return CHUNKED + size + end + data + after + last


LENGTH = b"%d" % len(BODY)
assert LENGTH == b"56"  # as it stands below

REQUEST_LINES = [
    ("two blanks before the target", get(line=b"GET  /healthz HTTP/1.1\r\n"), REFUSED),
    ("two blanks before the version", get(line=b"GET /healthz  HTTP/1.1\r\n"), REFUSED),
    ("a blank behind the version", get(line=b"GET /healthz HTTP/1.1 \r\n"), REFUSED),
    ("a blank before the method", get(line=b" GET /healthz HTTP/1.1\r\n"), REFUSED),
    ("tabs for blanks", get(line=b"GET\t/healthz\tHTTP/1.1\r\n"), REFUSED),
    ("a tab in the target", get(line=b"GET /heal\tthz HTTP/1.1\r\n"), REFUSED),
    ("a vertical tab", get(line=b"GET\x0b/healthz HTTP/1.1\r\n"), REFUSED),
    ("a form feed", get(line=b"GET /healthz\x0cHTTP/1.1\r\n"), REFUSED),
    ("no version", get(line=b"GET /healthz\r\n"), REFUSED),
    ("no target", get(line=b"GET HTTP/1.1\r\n"), REFUSED),
    ("nothing but a word", b"GET\r\n\r\n", REFUSED),
    ("a blank in the target", get(line=b"GET /heal thz HTTP/1.1\r\n"), REFUSED),
    ("version 0.9", get(line=b"GET /healthz HTTP/0.9\r\n"), REFUSED),
    ("version 1.2", get(line=b"GET /healthz HTTP/1.2\r\n"), REFUSED),
    ("version 2.0", get(line=b"GET /healthz HTTP/2.0\r\n"), REFUSED),
    ("version 1.10", get(line=b"GET /healthz HTTP/1.10\r\n"), REFUSED),
    ("version 01.1", get(line=b"GET /healthz HTTP/01.1\r\n"), REFUSED),
    ("version 1.", get(line=b"GET /healthz HTTP/1.\r\n"), REFUSED),
    ("version 1", get(line=b"GET /healthz HTTP/1\r\n"), REFUSED),
    ("version 11", get(line=b"GET /healthz HTTP/11\r\n"), REFUSED),
    ("version +1.1", get(line=b"GET /healthz HTTP/+1.1\r\n"), REFUSED),
    ("version 1,1", get(line=b"GET /healthz HTTP/1,1\r\n"), REFUSED),
    ("a small version", get(line=b"GET /healthz http/1.1\r\n"), REFUSED),
    ("another protocol", get(line=b"GET /healthz RTSP/1.1\r\n"), REFUSED),
    ("a longer protocol", get(line=b"GET /healthz XHTTP/1.1\r\n"), REFUSED),
    ("a small method", get(line=b"get /healthz HTTP/1.1\r\n"), "405"),
    ("a longer method", get(line=b"GETS /healthz HTTP/1.1\r\n"), "405"),
    ("an unknown method", get(line=b"BREW /healthz HTTP/1.1\r\n"), "405"),
    ("a method of 200 letters", get(line=b"A" * 200 + b" /healthz HTTP/1.1\r\n"), "405"),
    ("a NUL in the method", get(line=b"GE\0T /healthz HTTP/1.1\r\n"), REFUSED),
    ("a slash in the method", get(line=b"GE/T /healthz HTTP/1.1\r\n"), REFUSED),
    ("a colon in the method", get(line=b"GET: /healthz HTTP/1.1\r\n"), REFUSED),
    ("a method in quotes", get(line=b'"GET" /healthz HTTP/1.1\r\n'), REFUSED),
    ("a method beyond ASCII", get(line=b"G\xc3\x89T /healthz HTTP/1.1\r\n"), REFUSED),
    ("CONNECT to a host", get(line=b"CONNECT x:443 HTTP/1.1\r\n"), REFUSED),
    ("CONNECT to a path", get(line=b"CONNECT /healthz HTTP/1.1\r\n"), REFUSED),
    ("a URL", get(line=b"GET http://x/healthz HTTP/1.1\r\n"), REFUSED),
    ("another host's URL", get(line=b"GET http://y/healthz HTTP/1.1\r\n"), REFUSED),
    ("a URL of another scheme", get(line=b"GET file:///etc/passwd HTTP/1.1\r\n"), REFUSED),
    ("two slashes", get(line=b"GET //x/healthz HTTP/1.1\r\n"), REFUSED),
    ("a target without a slash", get(line=b"GET healthz HTTP/1.1\r\n"), REFUSED),
    ("an asterisk", get(line=b"OPTIONS * HTTP/1.1\r\n"), REFUSED),
    ("a query alone", get(line=b"GET ?a=b HTTP/1.1\r\n"), REFUSED),
    ("a fragment", get(line=b"GET /healthz#x HTTP/1.1\r\n"), REFUSED),
    ("a fragment that hides a path", get(line=b"GET /healthz#/../metrics HTTP/1.1\r\n"), REFUSED),
    ("a raw byte in the target", get(line=b"GET /healthz\xff HTTP/1.1\r\n"), REFUSED),
    ("raw UTF-8 in the query", get(line=b"GET /healthz?a=\xc3\xa9 HTTP/1.1\r\n"), REFUSED),
    ("DEL in the target", get(line=b"GET /healthz\x7f HTTP/1.1\r\n"), REFUSED),
    ("a NUL in the target", get(line=b"GET /healthz\0 HTTP/1.1\r\n"), REFUSED),
    ("an encoded NUL", get(line=b"GET /healthz%00 HTTP/1.1\r\n"), REFUSED),
    ("an encoded NUL in the query", get(line=b"GET /healthz?a=%00 HTTP/1.1\r\n"), REFUSED),
    ("a parameter given twice", get(line=b"GET /healthz?a=1&a=2 HTTP/1.1\r\n"), "400"),
    ("33 parameters", get(line=b"GET /healthz?" + b"&".join(b"p%d" % i for i in range(33)) + b" HTTP/1.1\r\n"), "400"),
    ("dots in the path", get(line=b"GET /x/../healthz HTTP/1.1\r\n"), "404"),
    ("encoded dots", get(line=b"GET /x/%2e%2e/healthz HTTP/1.1\r\n"), "404"),
    ("an encoded slash", get(line=b"GET /x%2fhealthz HTTP/1.1\r\n"), "404"),
    ("a backslash", get(line=b"GET /x\\healthz HTTP/1.1\r\n"), "404"),
    ("a slash at the end", get(line=b"GET /healthz/ HTTP/1.1\r\n"), "404"),
    ("a path parameter", get(line=b"GET /healthz;a=b HTTP/1.1\r\n"), "404"),
    ("a broken percent sign", get(line=b"GET /healthz%2 HTTP/1.1\r\n"), "404"),
    ("a target of 20,000 letters", get(line=b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n"), LARGE),
    ("an endless method", b"A" * 20000, LARGE),
]

LINE_ENDS = [
    ("LF behind the request line", b"GET /healthz HTTP/1.1\nHost: x\r\n\r\n", REFUSED),
    ("LF behind a header", GET + b"Host: x\n\r\n", REFUSED),
    ("LF at the end", GET + HOST + b"\n", REFUSED),
    ("LF everywhere", b"GET /healthz HTTP/1.1\nHost: x\n\n", REFUSED),
    ("CR behind the request line", b"GET /healthz HTTP/1.1\rHost: x\r\n\r\n", REFUSED),
    ("CR in a header", get(b"A: b\rContent-Length: 9\r\n"), REFUSED),
    ("CR CR LF", GET + b"Host: x\r\r\n\r\n", REFUSED),
    ("LF CR", GET + b"Host: x\n\r\n\r", REFUSED),
    ("LF before a request", b"\n" + get(), REFUSED),
    ("CR before a request", b"\r" + get(), REFUSED),
    ("a blank line of a blank", b" \r\n" + get(), REFUSED),
    ("a NUL before a request", b"\0" + get(), REFUSED),
    ("a byte order mark", b"\xef\xbb\xbf" + get(), REFUSED),
    ("blank lines before a request", b"\r\n\r\n\r\n" + get(), "200"),
    ("10,000 blank lines", b"\r\n" * 10000 + get(), REFUSED),
    ("a NEL for a line's end", GET + b"Host: x\xc2\x85A: b\r\n\r\n", REFUSED),  # the host's name then
]

HEADERS = [
    ("a folded header", get(b"A: b\r\n c\r\n"), REFUSED),
    ("a header folded by a tab", get(b"A: b\r\n\tContent-Length: 9\r\n"), REFUSED),
    ("a fold at the beginning", GET + b" " + HOST + END, REFUSED),
    ("a blank before the colon", get(b"A : b\r\n"), REFUSED),
    ("a tab before the colon", get(b"A\t: b\r\n"), REFUSED),
    ("no colon", get(b"A\r\n"), REFUSED),
    ("no name", get(b": b\r\n"), REFUSED),
    ("a blank in a name", get(b"A b: c\r\n"), REFUSED),
    ("a NUL in a name", get(b"A\0b: c\r\n"), REFUSED),
    ("a parenthesis in a name", get(b"A(b): c\r\n"), REFUSED),
    ("a quote in a name", get(b'A"b: c\r\n'), REFUSED),
    ("a slash in a name", get(b"A/b: c\r\n"), REFUSED),
    ("a name beyond ASCII", get(b"\xc3\x84: c\r\n"), REFUSED),
    ("an odd but legal name", get(b"!#$%&'*+-.^_`|~1A: c\r\n"), "200"),
    ("a NUL in a value", get(b"A: b\0c\r\n"), REFUSED),
    ("a bell in a value", get(b"A: b\x07\r\n"), REFUSED),
    ("an escape in a value", get(b"A: \x1b[2J\r\n"), REFUSED),
    ("DEL in a value", get(b"A: b\x7f\r\n"), REFUSED),
    ("a byte beyond ASCII in a value", get(b"A: \xff\r\n"), "200"),
    ("a tab in a value", get(b"A: b\tc\r\n"), "200"),
    ("an empty value", get(b"A:\r\n"), "200"),
    ("100 headers", get(b"A: b\r\n" * 99), "200"),
    ("101 headers", get(b"A: b\r\n" * 100), LARGE),
    ("5,000 headers", get(b"a:\r\n" * 5000), LARGE),
    ("a header of 20,000 bytes", get(b"A: " + b"b" * 20000 + END), LARGE),
    ("an endless header", GET + b"A: " + b"b" * 40000, LARGE),
    ("Content-Type twice", post(b"Content-Type: application/json\r\nContent-Type: text/plain\r\n"
                                b"Content-Length: " + LENGTH + END), REFUSED),
    ("Authorization twice", get(b"Authorization: a\r\nauthorization: b\r\n"), REFUSED),
    ("Idempotency-Key twice", get(b"Idempotency-Key: a\r\nIdempotency-Key: a\r\n"), REFUSED),
    ("Origin twice", get(b"Origin: http://a\r\nOrigin: http://b\r\n"), REFUSED),
    ("Connection: close in a list", get(b"Connection: keep-alive, close\r\n"), "200."),
    ("Connection names a header of ours", sized(LENGTH).replace(b"Content-Length:", b"Connection: Content-Length\r\n"
                                                               b"Content-Length:"), "+"),
    ("an upgrade to HTTP/2", get(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n"),
     "200"),
    ("an upgrade to WebSocket", get(b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"), "200"),
    ("Expect something else", sized(LENGTH).replace(b"Content", b"Expect: 200-ok\r\nContent", 1), "417."),
    ("Expect twice", post(b"Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: " + LENGTH + END), REFUSED),
]

HOSTS = [
    ("no Host", GET + END, REFUSED),
    ("no Host in HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n", "200."),
    ("Host twice", get(HOST), REFUSED),
    ("Host twice, different", get(b"Host: y\r\n"), REFUSED),
    ("an empty Host", GET + b"Host:\r\n\r\n", "200"),
    ("a Host with a port", GET + b"Host: x:8080\r\n\r\n", "200"),
    ("a Host of IPv6", GET + b"Host: [::1]:8080\r\n\r\n", "200"),
    ("two words in Host", GET + b"Host: x y\r\n\r\n", REFUSED),
    ("a list in Host", GET + b"Host: x, y\r\n\r\n", REFUSED),
    ("a path in Host", GET + b"Host: x/y\r\n\r\n", REFUSED),
    ("a URL in Host", GET + b"Host: http://x\r\n\r\n", REFUSED),
    ("a user in Host", GET + b"Host: a@x\r\n\r\n", REFUSED),
    ("a query in Host", GET + b"Host: x?y\r\n\r\n", REFUSED),
    ("a fragment in Host", GET + b"Host: x#y\r\n\r\n", REFUSED),
    ("a backslash in Host", GET + b"Host: x\\y\r\n\r\n", REFUSED),
    ("quotes in Host", GET + b'Host: "x"\r\n\r\n', REFUSED),
    ("an encoded Host", GET + b"Host: x%2fy\r\n\r\n", REFUSED),
    ("a Host beyond ASCII", GET + b"Host: \xc3\xa9\r\n\r\n", REFUSED),
    ("a Host without its bracket", GET + b"Host: [::1\r\n\r\n", REFUSED),
    ("a Host in empty brackets", GET + b"Host: []\r\n\r\n", REFUSED),
    ("a bare IPv6 Host", GET + b"Host: ::1\r\n\r\n", REFUSED),
    ("a port in words", GET + b"Host: x:http\r\n\r\n", REFUSED),
    ("a negative port", GET + b"Host: x:-1\r\n\r\n", REFUSED),
    ("two ports", GET + b"Host: x:1:2\r\n\r\n", REFUSED),
    ("a port of six digits", GET + b"Host: x:100000\r\n\r\n", REFUSED),
    ("a port without a name", GET + b"Host: :80\r\n\r\n", REFUSED),
]

LENGTHS = [
    ("a plain length", sized(b" " + LENGTH), "+"),
    ("a length without a blank", sized(LENGTH), "+"),
    ("a length between tabs", sized(b"\t" + LENGTH + b"\t"), "+"),
    ("a length with zeros", sized(b" 000" + LENGTH), "+"),
    ("an old length", sized(b" " + LENGTH).replace(b"1.1", b"1.0", 1), "+."),
    ("the length twice", sized(LENGTH + b"\r\nContent-Length: " + LENGTH), REFUSED),
    ("two lengths", sized(b" 0\r\nContent-Length: " + LENGTH), REFUSED),
    ("two lengths, the other first", sized(LENGTH + b"\r\ncontent-length: 0"), REFUSED),
    ("lengths in a list", sized(LENGTH + b", " + LENGTH), REFUSED),
    ("a length with a plus", sized(b"+" + LENGTH), REFUSED),
    ("a length with a minus", sized(b"-" + LENGTH), REFUSED),
    ("minus zero", sized(b"-0", b""), REFUSED),
    ("a hexadecimal length", sized(b"0x38"), REFUSED),
    ("a length with a fraction", sized(LENGTH + b".0"), REFUSED),
    ("a length with an exponent", sized(b"5e1"), REFUSED),
    ("a length in quotes", sized(b'"' + LENGTH + b'"'), REFUSED),
    ("a length with an end", sized(LENGTH + b";a=b"), REFUSED),
    ("two numbers", sized(LENGTH + b" 0"), REFUSED),
    ("a length in other digits", sized("٥٦".encode()), REFUSED),
    ("no length in the header", sized(b"", b""), REFUSED),
    ("a length of words", sized(b"many"), REFUSED),
    ("a length of 19 digits", sized(b"9999999999999999999"), REFUSED),
    ("a length beyond 64 bits", sized(b"18446744073709551672"), REFUSED),
    ("a length beyond 32 bits", sized(b"4294967352"), "413."),
    ("a length above the limit", sized(b"1048577"), "413."),
    ("a blank before the length's colon", post(b"Content-Length : " + LENGTH + END), REFUSED),
    ("a folded length", sized(b"\r\n " + LENGTH), REFUSED),
    ("a NUL behind the length", sized(LENGTH + b"\0"), REFUSED),
    ("a length on HEAD", b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 56\r\n\r\n" + BODY, REFUSED),
    ("a length on TRACE", b"TRACE /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 56\r\n\r\n" + BODY, REFUSED),
    ("a length on what nobody knows", b"BREW /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 56\r\n\r\n" + BODY, REFUSED),
    ("a body of GET", get(b"Content-Length: " + LENGTH + END) + BODY, "200"),
    ("a body of DELETE", b"DELETE /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 56\r\n\r\n" + BODY, "405"),
    ("a body of OPTIONS", b"OPTIONS /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 56\r\n\r\n" + BODY, "405"),
    ("a body that is longer", sized(LENGTH, BODY + b"("), "+ 400."),
    ("a length in another header", get(b"Content_Length: 56\r\n") + BODY + END, "200 400."),
    ("a request in a body", sized(b"%d" % len(get()), get()), "400/404"),
]

ENCODINGS = [
    ("chunks", encoded(b" chunked"), "+"),
    ("chunks in capitals", encoded(b"CHUNKED"), "+"),
    ("chunks between tabs", encoded(b"\tchunked\t"), "+"),
    ("a length and chunks", post(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", LAST), REFUSED),
    ("chunks and a length", post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", LAST), REFUSED),
    ("chunks twice", encoded(b" chunked\r\nTransfer-Encoding: chunked"), REFUSED),
    ("chunks, then nothing", encoded(b" chunked\r\nTransfer-Encoding: identity"), REFUSED),
    ("chunks of chunks", encoded(b" chunked, chunked"), REFUSED),
    ("gzip, then chunks", encoded(b" gzip, chunked"), REFUSED),
    ("chunks, then gzip", encoded(b" chunked, gzip"), REFUSED),
    ("identity", encoded(b" identity"), REFUSED),
    ("identity, then chunks", encoded(b" identity, chunked"), REFUSED),
    ("a comma before", encoded(b" , chunked"), REFUSED),
    ("a comma behind", encoded(b" chunked,"), REFUSED),
    ("a parameter", encoded(b" chunked;q=1"), REFUSED),
    ("quotes", encoded(b' "chunked"'), REFUSED),
    ("a longer word", encoded(b" xchunked"), REFUSED),
    ("a shorter word", encoded(b" chunke"), REFUSED),
    ("a vertical tab", encoded(b" \x0bchunked"), REFUSED),
    ("a NUL behind", encoded(b" chunked\0"), REFUSED),
    ("a no-break space", encoded(b" \xa0chunked"), REFUSED),
    ("a letter like another", encoded(" chun\u212aed".encode()), REFUSED),
    ("no encoding", encoded(b""), REFUSED),
    ("a folded encoding", encoded(b"\r\n chunked"), REFUSED),
    ("a blank before the colon", post(b"Transfer-Encoding : chunked\r\n", LAST), REFUSED),
    ("chunks in HTTP/1.0", encoded(b" chunked").replace(b"1.1", b"1.0", 1), REFUSED),
    ("chunks on HEAD", b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST, REFUSED),
    ("chunks of GET", get(b"Transfer-Encoding: chunked\r\n") + b"1\r\nx\r\n" + LAST, "200"),
    ("chunks in another header", get(b"Transfer_Encoding: chunked\r\n") + b"1\r\nx\r\n" + LAST, "200 400."),
]

CHUNKS = [
    ("a chunk with zeros", chunk(b"000" + SIZE), "+"),
    ("a chunk in capitals", chunk(b"3C", data=BODY + b"    "), "+"),
    ("an extension", chunk(SIZE + b";a=b"), "+"),
    ("an extension in quotes", chunk(SIZE + b';a="b;c"'), "+"),
    ("a blank before an extension", chunk(SIZE + b" ;a"), "+"),
    ("a blank behind the size", chunk(SIZE + b" "), "+"),
    ("a blank before the size", chunk(b" " + SIZE), REFUSED),
    ("a tab before the size", chunk(b"\t" + SIZE), REFUSED),
    ("a plus", chunk(b"+" + SIZE), REFUSED),
    ("a minus", chunk(b"-" + SIZE), REFUSED),
    ("0x", chunk(b"0x" + SIZE), REFUSED),
    ("0X", chunk(b"0X" + SIZE), REFUSED),
    ("an h behind", chunk(SIZE + b"h"), REFUSED),
    ("a comma", chunk(SIZE + b",0"), REFUSED),
    ("a fraction", chunk(SIZE + b".0"), REFUSED),
    ("a word", chunk(b"chunk"), REFUSED),
    ("no size", chunk(b""), REFUSED),
    ("an extension alone", chunk(b";a=b"), REFUSED),
    ("two sizes", chunk(SIZE + b" " + SIZE), REFUSED),
    ("16 digits", chunk(b"0000000000000000"), REFUSED),
    ("a size beyond 64 bits", chunk(b"10000000000000038"), REFUSED),
    ("the largest size", chunk(b"7fffffffffffff"), "413."),
    ("a size above the limit", chunk(b"100001"), "413."),
    ("LF behind the size", chunk(SIZE, b"\n"), REFUSED),
    ("CR behind the size", chunk(SIZE, b"\r"), REFUSED),
    ("LF in an extension", chunk(SIZE + b";a\nb"), REFUSED),
    ("a NUL in an extension", chunk(SIZE + b";a\0"), REFUSED),
    ("CR in an extension", chunk(SIZE + b";a\rb"), REFUSED),
    ("an extension of 2,000 bytes", chunk(SIZE + b";" + b"a" * 2000), REFUSED),
    ("a longer chunk than its size", chunk(b"%x" % (len(BODY) - 1)), REFUSED),
    ("a shorter chunk than its size", chunk(b"%x" % (len(BODY) + 1)), REFUSED),
    ("LF behind a chunk", chunk(SIZE, after=b"\n"), REFUSED),
    ("CR behind a chunk", chunk(SIZE, after=b"\r"), REFUSED),
    ("nothing behind a chunk", chunk(SIZE, after=b""), REFUSED),
    ("two line ends behind a chunk", chunk(SIZE, after=b"\r\n\r\n"), REFUSED),
    ("many zeros at the end", chunk(SIZE, last=b"000\r\n\r\n"), "+"),
    ("an extension at the end", chunk(SIZE, last=b"0;a=b\r\n\r\n"), "+"),
    ("0x0 at the end", chunk(SIZE, last=b"0x0\r\n\r\n"), REFUSED),
    ("minus zero at the end", chunk(SIZE, last=b"-0\r\n\r\n"), REFUSED),
    ("LF at the end", chunk(SIZE, last=b"0\n\n"), REFUSED),
    ("a trailer", chunk(SIZE, last=b"0\r\nA: b\r\n\r\n"), "+"),
    ("a trailer that is a length", chunk(SIZE, last=b"0\r\nContent-Length: 9\r\n\r\n"), "+"),
    ("a trailer that is an encoding", chunk(SIZE, last=b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), "+"),
    ("a trailer that is a Host", chunk(SIZE, last=b"0\r\nHost: y\r\n\r\n"), "+"),
    ("a request in the trailers", chunk(SIZE, last=b"0\r\n" + GET + HOST + b"\r\n"), REFUSED),
    ("a folded trailer", chunk(SIZE, last=b"0\r\nA: b\r\n c\r\n\r\n"), REFUSED),
    ("a trailer without a colon", chunk(SIZE, last=b"0\r\nA\r\n\r\n"), REFUSED),
    ("a NUL in a trailer", chunk(SIZE, last=b"0\r\nA: \0\r\n\r\n"), REFUSED),
    ("LF in the trailers", chunk(SIZE, last=b"0\r\nA: b\n\r\n"), REFUSED),
    ("trailers of 20,000 bytes", chunk(SIZE, last=b"0\r\nA: " + b"b" * 20000 + b"\r\n\r\n"), LARGE),
    ("rubbish behind the end", chunk(SIZE, last=LAST + b"0\r\n\r\n"), "+ 400."),
]

TYPES = [
    (f"{kind or 'no'} type" + (" from a page" if page else ""),
     post(b"Content-Type: " + kind.encode() + END + page + b"Content-Length: " + LENGTH + END), answer)
    for kind, page, answer in (
        ("application/json", b"", "+"), ("application/json; charset=utf-8", b"Origin: http://y\r\n", "+"),
        ("application/x-www-form-urlencoded", b"", "+"),
        ("application/x-www-form-urlencoded", b"Origin: http://y\r\n", "415/404"),
        ("", b"Sec-Fetch-Site: cross-site\r\n", "415/404"), ("text/plain", b"", "415/404"),
        ("text/plain;application/json", b"Origin: null\r\n", "415/404"),
        ("multipart/form-data; boundary=x", b"", "415/404"))
]

OTHERS = [
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
    ("TLS", b"\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03" + bytes(range(64)), REFUSED),
    ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", REFUSED),
    ("SMTP", b"EHLO x\r\n", REFUSED),
    ("Redis", b"*1\r\n$4\r\nPING\r\n", REFUSED),
    ("AMQP", b"AMQP\0\0\x09\x01", REFUSED),
    ("a proxy's word", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + get(), REFUSED),
    ("a proxy's word in bytes", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) + get(), REFUSED),
    ("an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", REFUSED),
    ("a page", b"<html><body>x</body></html>\r\n\r\n", REFUSED),
    ("random bytes", bytes(i * 7 % 256 for i in range(300)), REFUSED),
]

FORMS = [(f"{part}: {name}", data, answers)
         for part, forms in (("request line", REQUEST_LINES), ("line ends", LINE_ENDS), ("headers", HEADERS),
                             ("host", HOSTS), ("length", LENGTHS), ("encoding", ENCODINGS), ("chunk", CHUNKS),
                             ("type", TYPES), ("other protocols", OTHERS))
         for name, data, answers in forms]


def expected(answers, knows_messages):
    """(statuses, whether the connection ends with them). "a/b": a from operator-sim, b elsewhere."""
    ends = answers.endswith(".")
    statuses = [word.replace("+", "200/404").split("/") for word in answers.rstrip(".").split()]
    return [int(each[0 if knows_messages else -1]) for each in statuses], ends
