#include "api/admin_act.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>
#undef LOG_DEBUG /* our own levels have these names */
#undef LOG_INFO

#include "libcommon/net/address.h"
#include "libcommon/telemetry/log.h"

#define NAME_ROOM 64

/* What the log shows of a name: a name that holds anything else is not ours to repeat. */
static void put_user(uid_t uid, char out[NAME_ROOM])
{
    const struct passwd *p = getpwuid(uid);

    if (p && strlen(p->pw_name) < NAME_ROOM)
        snprintf(out, NAME_ROOM, "%s", p->pw_name);
    else
        snprintf(out, NAME_ROOM, "%lld", (long long)uid);
}

/* Who logged in: kept by the kernel, whoever they have become since. */
static void put_login(char out[NAME_ROOM])
{
    long long uid = -1;
    FILE *f = fopen("/proc/self/loginuid", "r");

    out[0] = '\0';
    if (!f)
        return;
    if (fscanf(f, "%lld", &uid) == 1 && uid >= 0 && uid != (long long)(uid_t)-1)
        put_user((uid_t)uid, out);
    fclose(f);
}

static void put_origin(char out[NAME_ROOM])
{
    const char *ssh = getenv("SSH_CONNECTION");
    size_t n = ssh ? strcspn(ssh, " ") : 0;
    const char *terminal = ttyname(STDIN_FILENO);
    struct address address;

    if (n && address_parse(ssh, n, &address))
        address_format(&address, out);
    else
        snprintf(out, NAME_ROOM, "%s", terminal ? terminal : "local");
}

struct who {
    char host[NAME_ROOM], user[NAME_ROOM], login[NAME_ROOM], from[NAME_ROOM];
};

static struct who find_who(void)
{
    struct who who = {.host = ""};

    gethostname(who.host, sizeof(who.host) - 1);
    put_user(geteuid(), who.user);
    put_login(who.login);
    put_origin(who.from);
    return who;
}

void admin_act_log(const char *act, uint64_t key_id, const char *what)
{
    const struct who who = find_who();

    log_info("admin.key", L_STR("act", act), L_INT("key_id", key_id), L_STR("what", what),
             L_STR("user", who.user), L_STR("login", who.login), L_STR("host", who.host),
             L_STR("from", who.from));
    syslog(LOG_AUTH | LOG_NOTICE, "admin.key %s key_id=%llu user=%s login=%s from=%s %s", act,
           (unsigned long long)key_id, who.user, who.login, who.from, what ? what : "");
}

void admin_act_log_customer(const char *act, int64_t customer_id, const char *what)
{
    const struct who who = find_who();

    log_info("admin.customer", L_STR("act", act), L_INT("customer_id", customer_id),
             L_STR("what", what), L_STR("user", who.user), L_STR("login", who.login),
             L_STR("host", who.host), L_STR("from", who.from));
    syslog(LOG_AUTH | LOG_NOTICE, "admin.customer %s customer_id=%lld user=%s login=%s from=%s %s",
           act, (long long)customer_id, who.user, who.login, who.from, what ? what : "");
}
