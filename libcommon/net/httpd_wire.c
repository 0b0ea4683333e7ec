#include <event2/buffer.h>
#include <string.h>
#include <strings.h>

#include "libcommon/net/httpd_internal.h"

#define CHUNK_LINE_MAX 1024  /* bytes of a chunk's size and its extensions */
#define LENGTH_DIGITS_MAX 18 /* of Content-Length; fits 63 bits */
#define CHUNK_DIGITS_MAX 15

/* In evhttp's eyes no request line, no header and no chunk size, wherever it stands. */
#define NONSENSE "x\r\n"

/* What the first bytes that are not decided yet are. */
enum unit {
    UNIT_MORE,  /* not known before more bytes come */
    UNIT_PASS,  /* for evhttp */
    UNIT_SKIP,  /* clean, and nothing that evhttp needs or reads well */
    UNIT_WRONG, /* state is WIRE_WRONG */
};

static enum unit refuse_with(struct http_wire *w, int status, const char *wrong)
{
    w->status = status;
    w->wrong = wrong;
    w->state = WIRE_WRONG;
    return UNIT_WRONG;
}

static enum unit refuse(struct http_wire *w, const char *wrong)
{
    return refuse_with(w, 400, wrong);
}

/* RFC 6585 section 5 */
static enum unit refuse_large(struct http_wire *w, const char *wrong)
{
    return refuse_with(w, 431, wrong);
}

static enum unit refuse_for_memory(struct http_wire *w)
{
    return refuse_with(w, 503, "The server is out of memory.");
}

static enum unit pass(struct http_wire *w, enum http_wire_state next)
{
    w->requests += next == WIRE_BETWEEN;
    w->state = next;
    w->line = w->looked = 0;
    return UNIT_PASS;
}

/* What may stand in a line: HTAB, SP, VCHAR and obs-text of RFC 9110 section 5.5. */
static bool is_plain(char c)
{
    unsigned char u = (unsigned char)c;

    return (u >= ' ' && u != 0x7f) || u == '\t';
}

/* How many plain characters p begins with, nearly: tabs end the eight at a time. */
static size_t plain_run(const char *p, size_t n)
{
    const uint64_t each = UINT64_MAX / 255;
    size_t at = 0;

    for (; at + sizeof(each) <= n; at += sizeof(each)) {
        uint64_t eight;
        uint64_t del;

        memcpy(&eight, p + at, sizeof(eight));
        del = eight ^ each * 0x7f;
        /* A byte below ' ', or one that was DEL, borrows into its highest bit. */
        if ((((eight - each * ' ') & ~eight) | ((del - each) & ~del)) & each * 0x80)
            break;
    }
    return at;
}

/* UNIT_PASS when the line that begins at w->line is whole: w->looked is at its CR then. */
static enum unit find_line(struct http_wire *w, const char *p, size_t n)
{
    size_t at = w->looked + plain_run(p + w->looked, n - w->looked);

    while (at < n && is_plain(p[at]))
        at++;
    w->looked = at;
    if (at == n)
        return UNIT_MORE;
    if (p[at] != '\r' && p[at] != '\n')
        return refuse(w, "A control character stands where none may.");
    if (p[at] == '\r' && at + 1 == n)
        return UNIT_MORE;
    if (p[at] != '\r' || p[at + 1] != '\n')
        return refuse(w, "Every line must end with CR LF.");
    return UNIT_PASS;
}

static bool is_letter(char c)
{
    return (unsigned)((c | 0x20) - 'a') < 26;
}

/* tchar of RFC 9110 section 5.6.2 */
static bool is_token(const char *s, size_t n)
{
    static const char others[] = "0123456789!#$%&'*+.^_`|~";

    for (size_t i = 0; i < n; i++)
        if (!is_letter(s[i]) && s[i] != '-' && !memchr(others, s[i], sizeof(others) - 1))
            return false;
    return n > 0;
}

static const char *check_version(struct http_wire *w, const char *s, size_t n)
{
    if (n == 8 && !memcmp(s, "HTTP/1.", 7) && (s[7] == '0' || s[7] == '1')) {
        w->old = s[7] == '0';
        return NULL;
    }
    return n >= 5 && !memcmp(s, "HTTP/", 5) ? "The server speaks HTTP/1.1."
                                            : "The request line is not one of HTTP/1.1.";
}

static enum http_method method_of(const char *s, size_t n)
{
    char name[8] = "";

    if (n >= sizeof(name))
        return HTTP_OTHER;
    memcpy(name, s, n);
    return http_method_parse(name);
}

static const char *take_request_line(struct http_wire *w, const char *line, size_t n)
{
    const char *end = line + n;
    const char *target = memchr(line, ' ', n);
    const char *version = target ? memchr(target + 1, ' ', (size_t)(end - target) - 1) : NULL;
    enum http_method method;

    if (!version || version == target + 1 || memchr(line, '\t', n) ||
        !is_token(line, (size_t)(target - line)))
        return "The request line is not one of HTTP/1.1.";
    method = method_of(line, (size_t)(target - line));
    if (method == HTTP_CONNECT) /* evhttp would keep the connection whatever the answer */
        return "The server is no proxy.";
    /* evhttp leaves such a body in the stream, where it would be read as the next request. */
    w->bodiless = method == HTTP_HEAD || method == HTTP_TRACE || method == HTTP_OTHER;
    w->headers = w->lengths = w->encodings = 0;
    w->left = 0;
    return check_version(w, version + 1, (size_t)(end - version) - 1);
}

static bool take_length(struct http_wire *w, const char *s, size_t n)
{
    if (w->lengths++ || !n || n > LENGTH_DIGITS_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        w->left = w->left * 10 + (uint64_t)(s[i] - '0');
    }
    return true;
}

/* The value of the header whose colon is given, without the blanks around it. Tabs in front become
 * spaces: evhttp takes nothing else for a blank there. */
static const char *trim_value(char *colon, const char *end, size_t *n)
{
    char *value = colon + 1;

    while (value < end && (*value == ' ' || *value == '\t'))
        *value++ = ' ';
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *n = (size_t)(end - value);
    return value;
}

/* A line of headers or trailers. NULL, or what is wrong with it; *name_len without the colon. */
static const char *check_field(const char *line, size_t n, size_t *name_len)
{
    const char *colon = memchr(line, ':', n);

    if (*line == ' ' || *line == '\t')
        return "A header goes on in a further line.";
    if (!colon)
        return "A header has no colon.";
    *name_len = (size_t)(colon - line);
    return is_token(line, *name_len) ? NULL : "A header name holds a character that it must not.";
}

static const char *take_header(struct http_wire *w, char *line, size_t n)
{
    size_t name_len;
    size_t value_len;
    const char *wrong = check_field(line, n, &name_len);
    const char *value;

    if (wrong)
        return wrong;
    value = trim_value(line + name_len, line + n, &value_len);
    if (name_len == 14 && !strncasecmp(line, "Content-Length", 14) &&
        !take_length(w, value, value_len))
        return "Content-Length must be given once, in digits.";
    if (name_len == 17 && !strncasecmp(line, "Transfer-Encoding", 17) &&
        (w->encodings++ || value_len != 7 || strncasecmp(value, "chunked", 7) != 0))
        return "Transfer-Encoding may only be chunked.";
    return NULL;
}

static enum unit end_head(struct http_wire *w, size_t *len)
{
    *len = w->looked + 2;
    if (w->lengths && w->encodings)
        return refuse(w, "Content-Length and Transfer-Encoding exclude each other.");
    if (w->encodings && w->old)
        return refuse(w, "Transfer-Encoding is for HTTP/1.1.");
    if ((w->lengths || w->encodings) && w->bodiless)
        return refuse(w, "This method takes no body.");
    if (w->encodings)
        return pass(w, WIRE_CHUNK_SIZE);
    return pass(w, w->left ? WIRE_BODY : WIRE_BETWEEN);
}

static enum unit head(struct http_wire *w, char *p, size_t n, size_t *len)
{
    for (;;) {
        enum unit unit = find_line(w, p, n);
        size_t line_len = w->looked - w->line;
        const char *wrong;

        if (unit == UNIT_WRONG)
            return unit;
        if (w->looked > w->max_head)
            return refuse_large(w, "The headers are too large.");
        if (unit == UNIT_MORE)
            return unit;
        if (!line_len)
            return end_head(w, len);
        if (w->line && ++w->headers > w->max_headers && w->max_headers)
            return refuse_large(w, "There are too many headers.");
        wrong = w->line ? take_header(w, p + w->line, line_len) : take_request_line(w, p, line_len);
        if (wrong)
            return refuse(w, wrong);
        w->line = w->looked = w->looked + 2;
    }
}

/* Blank lines in front of a request are leftovers of the one before (RFC 9112 section 2.2). */
static enum unit between(struct http_wire *w, char *p, size_t n, size_t *len)
{
    if (*p != '\r' && *p != '\n') {
        w->state = WIRE_HEAD;
        w->skipped = 0;
        return head(w, p, n, len);
    }
    if (w->skipped >= w->max_head)
        return refuse(w, "There are too many blank lines.");
    *len = 2;
    return find_line(w, p, n) == UNIT_PASS ? UNIT_SKIP : w->wrong ? UNIT_WRONG : UNIT_MORE;
}

static enum unit body(struct http_wire *w, size_t n, size_t *len)
{
    *len = n < w->left ? n : (size_t)w->left;
    w->left -= *len;
    return pass(w, w->left ? WIRE_BODY : WIRE_BETWEEN);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Extensions mean nothing to us, and evhttp stumbles over them: blanks take their place. */
static enum unit chunk_size(struct http_wire *w, char *p, size_t n, size_t *len)
{
    enum unit unit = find_line(w, p, n);
    size_t digits = 0;
    size_t blanks;

    if (unit == UNIT_WRONG)
        return unit;
    if (w->looked > CHUNK_LINE_MAX)
        return refuse(w, "A chunk's extensions are too long.");
    if (unit == UNIT_MORE)
        return unit;
    *len = w->looked + 2;
    for (w->left = 0; digits < w->looked && hex_value(p[digits]) >= 0; digits++)
        if (digits < CHUNK_DIGITS_MAX)
            w->left = w->left << 4 | (uint64_t)hex_value(p[digits]);
    for (blanks = digits; blanks < w->looked && (p[blanks] == ' ' || p[blanks] == '\t'); blanks++)
        ;
    if (!digits || digits > CHUNK_DIGITS_MAX || (blanks < w->looked && p[blanks] != ';'))
        return refuse(w, "A chunk's size must be a hexadecimal number.");
    memset(p + digits, ' ', w->looked - digits);
    return pass(w, w->left ? WIRE_CHUNK : WIRE_TRAILERS);
}

/* What evhttp is to refuse must not be taken for the chunk's. */
static enum unit pass_last(struct http_wire *w, size_t *len)
{
    w->left = 0;
    *len = 1;
    return pass(w, WIRE_CHUNK_END);
}

/* Of a chunk whose end is the last that evhttp sees it keeps the memory that it came in, however
 * little of it was used: a body of small chunks would take hundreds of times its bytes. So a
 * chunk's last byte waits for the end of line behind it. */
static enum unit chunk_data(struct http_wire *w, const char *p, size_t n, size_t *len)
{
    size_t left = (size_t)w->left;

    if (n >= left + 2 && p[left] == '\r' && p[left + 1] == '\n') {
        w->left = 0;
        *len = left + 2;
        return pass(w, WIRE_CHUNK_SIZE);
    }
    if (left > 1) {
        *len = n < left ? n : left - 1;
        w->left -= *len;
        return pass(w, WIRE_CHUNK);
    }
    if ((n > 1 && p[1] != '\r') || (n > 2 && p[2] != '\n'))
        return pass_last(w, len);
    return UNIT_MORE;
}

/* Nobody asks for trailers, so evhttp need not mix them with the headers. */
static enum unit trailers(struct http_wire *w, char *p, size_t n, size_t *len)
{
    enum unit unit = find_line(w, p, n);
    size_t name_len;
    const char *wrong;

    if (unit == UNIT_WRONG)
        return unit;
    if (w->skipped + w->looked > w->max_head)
        return refuse_large(w, "The trailers are too large.");
    if (unit == UNIT_MORE)
        return unit;
    *len = w->looked + 2;
    if (!w->looked) {
        w->skipped = 0;
        return pass(w, WIRE_BETWEEN);
    }
    wrong = check_field(p, w->looked, &name_len);
    return wrong ? refuse(w, wrong) : UNIT_SKIP;
}

static enum unit proxy(struct http_wire *w, const char *p, size_t n, size_t *len)
{
    enum http_proxy_part part = http_proxy_read(p, n, &w->proxied, len);

    if (part == HTTP_PROXY_WRONG)
        return refuse(w, "The connection must begin with a PROXY header.");
    return part == HTTP_PROXY_MORE ? UNIT_MORE : UNIT_SKIP;
}

/* What the n bytes at p begin with, and *len of them unless it is UNIT_MORE or UNIT_WRONG. */
static enum unit next_unit(struct http_wire *w, char *p, size_t n, size_t *len)
{
    switch (w->state) {
    case WIRE_BETWEEN:
        return between(w, p, n, len);
    case WIRE_PROXY:
        return proxy(w, p, n, len);
    case WIRE_HEAD:
        return head(w, p, n, len);
    case WIRE_BODY:
        return body(w, n, len);
    case WIRE_CHUNK_SIZE:
        return chunk_size(w, p, n, len);
    case WIRE_CHUNK:
        return chunk_data(w, p, n, len);
    case WIRE_CHUNK_END:
        return refuse(w, "A chunk is longer than its size says.");
    case WIRE_TRAILERS:
        return trailers(w, p, n, len);
    default:
        return UNIT_WRONG;
    }
}

/* How many of the last n bytes may stay as they are. Nearly always all of them. */
static size_t pass_in_place(struct http_wire *w, struct evbuffer *in, size_t n)
{
    struct evbuffer_ptr at;
    struct evbuffer_iovec fresh;
    size_t done = 0;
    size_t len = 0;

    if (evbuffer_ptr_set(in, &at, evbuffer_get_length(in) - n, EVBUFFER_PTR_SET) ||
        evbuffer_peek(in, (ev_ssize_t)n, &at, &fresh, 1) != 1)
        return 0;
    while (done < n && next_unit(w, (char *)fresh.iov_base + done, n - done, &len) == UNIT_PASS)
        done += len;
    return done;
}

/* False when memory is out: nothing is left then. */
static bool cut_tail(struct evbuffer *in, size_t n)
{
    size_t keep = evbuffer_get_length(in) - n;
    struct evbuffer *kept = evbuffer_new();
    bool done = kept && evbuffer_remove_buffer(in, kept, keep) == (int)keep;

    evbuffer_drain(in, evbuffer_get_length(in));
    done = done && !evbuffer_add_buffer(in, kept);
    if (kept)
        evbuffer_free(kept);
    return done;
}

/* Moves the last n bytes behind those that are held already. */
static void hold(struct http_wire *w, struct evbuffer *in, size_t n)
{
    struct evbuffer_ptr at;
    bool done = buf_reserve(&w->held, n) &&
                !evbuffer_ptr_set(in, &at, evbuffer_get_length(in) - n, EVBUFFER_PTR_SET) &&
                evbuffer_copyout_from(in, &at, w->held.data + w->held.len, n) == (ev_ssize_t)n;

    w->held.len += done ? n : 0;
    if (!cut_tail(in, n) || !done)
        refuse_for_memory(w);
}

static void skip(struct http_wire *w, size_t n)
{
    w->line = w->looked = 0;
    if (w->state == WIRE_PROXY)
        w->state = WIRE_BETWEEN;
    else
        w->skipped += n;
}

static void pass_held(struct http_wire *w, struct evbuffer *in)
{
    enum unit unit = UNIT_PASS;
    size_t at = 0;

    while (at < w->held.len && (unit == UNIT_PASS || unit == UNIT_SKIP)) {
        size_t len = 0;

        unit = next_unit(w, w->held.data + at, w->held.len - at, &len);
        if (unit == UNIT_PASS && evbuffer_add(in, w->held.data + at, len))
            unit = refuse_for_memory(w);
        if (unit == UNIT_SKIP)
            skip(w, len);
        at += unit == UNIT_PASS || unit == UNIT_SKIP ? len : 0;
    }
    if (w->state == WIRE_WRONG) {
        evbuffer_add(in, NONSENSE, sizeof(NONSENSE) - 1);
        w->state = WIRE_REFUSED;
        at = w->held.len;
    }
    if (at < w->held.len)
        memmove(w->held.data, w->held.data + at, w->held.len - at);
    w->held.len -= at;
    if (!w->held.len)
        buf_free(&w->held);
}

void http_wire_take(struct http_wire *w, struct evbuffer *in, size_t n)
{
    if (w->state == WIRE_REFUSED) {
        (void)cut_tail(in, n);
        return;
    }
    if ((w->state == WIRE_BODY || w->state == WIRE_CHUNK) && w->left > n) {
        w->left -= n;
        return;
    }
    if (!w->held.len)
        n -= pass_in_place(w, in, n);
    if (!n)
        return;
    hold(w, in, n);
    pass_held(w, in);
}

/* Whoever has read on behind an end that we see, or stopped before it, takes bytes of one request
 * for those of another. */
bool http_wire_agrees(const struct http_wire *w, uint64_t taken, size_t unread)
{
    if (taken > w->requests)
        return false;
    /* What stands there is a further request then, or the line that nobody takes for one. */
    return (taken == w->requests && (w->state == WIRE_BETWEEN || w->state == WIRE_HEAD)) == !unread;
}
