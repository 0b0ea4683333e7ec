#ifndef API_AUDIT_WATCH_H
#define API_AUDIT_WATCH_H

/*
 * The audit that never ends: a thread walks balances, ledger and recipients again and again, one
 * short statement at a time and with pauses, so that it costs the database AUDIT_LOAD_PCT of one
 * connection's time however large the tables are. What it finds is in the gauge
 * msg_ledger_mismatch, which must read 0, and in the log. Of several replicas one walks at a time,
 * by a named lock.
 */

struct audit_watch;

struct audit_watch *audit_watch_start(void);        /* settings: api_settings; NULL: switched off */
void audit_watch_begin_stop(struct audit_watch *w); /* does not wait; NULL is fine */
void audit_watch_stop(struct audit_watch *w); /* NULL is fine; bounded by the database's timeouts */

#endif
