#include "api/ledger_client.h"

#include <check.h>
#include <string.h>

#include "test/unit/suite.h"

#define ASKED 5

static const struct {
    const char *text;
    bool whole;
    int64_t next;
} pages[] = {
    {"{\"ledger\":[],\"next_cursor\":null}", true, -1},
    {"{\"ledger\":[]}", true, -1},
    {"{\"ledger\":[{\"reference\":\"m-0\"}],\"next_cursor\":\"6\"}", true, 6},
    /* An audit that follows these has no end. */
    {"{\"ledger\":[],\"next_cursor\":\"5\"}", false, ASKED},
    {"{\"ledger\":[],\"next_cursor\":\"0\"}", false, ASKED},
    {"{\"ledger\":[],\"next_cursor\":\"-1\"}", false, ASKED},
    {"{\"ledger\":[],\"next_cursor\":\"\"}", false, ASKED},
    {"{\"ledger\":{},\"next_cursor\":null}", false, ASKED},
    {"{\"error\":\"not_found\"}", false, ASKED},
    {"<html>", false, ASKED},
    {"", false, ASKED},
};

START_TEST(a_page_leads_on)
{
    const char *text = pages[_i].text;
    int64_t cursor = ASKED;
    json_t *entries = ledger_page_read(text, strlen(text), &cursor);

    ck_assert_msg((entries != NULL) == pages[_i].whole, "%s", text);
    ck_assert_int_eq(cursor, pages[_i].next);
    json_decref(entries);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ledger_client");
    TCase *t = tcase_create("ledger_client");

    tcase_add_loop_test(t, a_page_leads_on, 0, (int)(sizeof(pages) / sizeof(pages[0])));
    suite_add_tcase(s, t);
    return suite_run(s);
}
