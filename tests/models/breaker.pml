/* The breaker of one relay: PROCESSES processes, 3 deliveries, the hold and the probe lease in Redis.

   An atomic block is one script of Redis or one step of a process' state machine (galaxy_mail/relays/breaker.py).
   Between two of them anything may happen: another process acts, the relay changes, a process crashes.

   Left out: how long a pause is. A pause ends at some time, and a lease ends at some time after its owner crashed or
   gave up. A delivery that a probe has used comes back after 60 s, when the others have had their turn: here, when no
   other is due. A process has one slot. `closed` and `recovering` differ in the next pause alone, so they are one state here.

   Checked, by `assert`:
     ALONE      at most one process probes at a time
     HELD       a process that has seen the hold begins nothing but its probe
     OPERATOR   the breaker neither overwrites nor lifts an operator's hold
     ODD        one odd delivery alone opens no hold
     ACCEPTED   a hold that is probed by deliveries is lifted only after an accepted mail
   and as liveness, with weak fairness:
     others     deliveries 1 and 2 are sent once the relay takes them, whatever it does to delivery 0. Compiled with
                NO_EXPIRY: the probes lift the hold, also after crashes.
     ends       compiled with UNKNOWN_RELAY: a hold that nobody probes ends by itself

   tests/models/test_models.py edits single lines of this file: each edit must break one of these properties. */

#define PROCESSES 2
#define ROW 2                     /* failures in a row; three in the service */
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef MOODS
#define MOODS 0                   /* changes of the relay between its first mood and its last */
#endif

mtype:mood = { well, down, refuses_mail, refuses_data, refuses_odd_mail, refuses_odd_data };
mtype:state = { closed, checking, open, probing };
mtype:probe = { none, session, delivery };  /* also the kind of a hold: how it is probed */
mtype:work = { due, busy, later, sent };
mtype:write = { nothing, put, extend, lift };

mtype:mood relay = well;

/* Redis */
mtype:probe hold = none;          /* mail:holds, breaker:relay:default */
byte hold_age = 0;                /* it ends at 2; a probe sets it to 0 */
bool operator_hold = false;       /* mail:holds, operator:relay:default */
byte lease = 0;                   /* mail:probe:default: the owner, from 1 on; 0: free */
mtype:work work[3] = due;

/* What each process knows; lost in a crash */
typedef Process {
  mtype:state state = closed;
  bool seen_operator;             /* the operator's hold as of the last look */
  bool fresh;                     /* the hold has not changed since then: a compare-and-set succeeds */
  mtype:write write = nothing;    /* what the machine wants to be written */
  mtype:probe kind;               /* of the hold to be written */
  mtype:probe probe;              /* under way */
  bool leased;                    /* it renews its lease; if it can't, it cancels its probe before the lease ends */
  byte begun = 3;                 /* the delivery that its one slot has begun, for a probe too; 3: none */
  bool waits;                     /* the slot waits for the probe's answer: message or relay? */
  bool tried;                     /* another process had the lease when it wanted to probe at once */
  byte sessions;                  /* relay failures before MAIL since the last accepted mail, */
  byte failed;                    /* and deliveries that failed from MAIL on, as bits */
}
Process p[PROCESSES];

/* Ghosts: what the properties need, and no process knows */
bool looked[PROCESSES];           /* the process has looked while this hold stood */
bool operator_says = false;       /* what the operator wants */
bool was_bad = false;             /* the relay refused all, at some time */
bool accepted = false;            /* a mail was accepted while this hold stood */

inline changed() {
  p[0].fresh = false; p[1].fresh = false
}

inline gone() {
  hold = none; hold_age = 0; changed(); accepted = false; looked[0] = false; looked[1] = false
}

inline open_hold(k) {
  p[i].state = open; p[i].write = put; p[i].kind = k; p[i].sessions = 0; p[i].failed = 0;
  settle(i)
}

inline settle(n) {                /* what waited for a probe is charged; as whose, makes no difference here */
  if
  :: p[n].waits -> work[p[n].begun] = later; p[n].begun = 3; p[n].waits = false; p[n].tried = false
  :: else
  fi
}

inline count(k) {                 /* failures in a row; from MAIL on, of different deliveries */
  if
  :: p[i].sessions + (p[i].failed & 1) + ((p[i].failed >> 1) & 1) + (p[i].failed >> 2) >= ROW -> open_hold(k)
  :: else
  fi
}

/* One sender slot. */
proctype slot(byte i) {
  byte d = 3;
  do
  :: atomic {
       p[i].begun == 3 && p[i].write == nothing && !p[i].seen_operator &&
       (p[i].state == closed || p[i].state == checking) && /* NOT HELD */
       (work[0] == due || work[1] == due || work[2] == due) ->
       if
       :: work[0] == due -> d = 0
       :: work[0] != due && work[1] == due -> d = 1
       :: work[0] != due && work[1] != due -> d = 2
       fi;
       assert(!(hold != none && looked[i]));                                     /* HELD */
       work[d] = busy; p[i].begun = d; d = 3
     }
  :: atomic {
       p[i].begun != 3 && !p[i].waits && p[i].probe != delivery ->
       d = p[i].begun;
       if
       :: relay == down ->
          work[d] = later; p[i].begun = 3;
          if
          :: p[i].state == closed || p[i].state == checking -> p[i].sessions++; count(session)
          :: else
          fi
       :: relay == refuses_mail || (relay == refuses_odd_mail && d == 0) ->
          if
          :: p[i].state == closed -> p[i].state = checking; p[i].waits = true
          :: p[i].state == checking -> p[i].waits = true
          :: else -> work[d] = later; p[i].begun = 3
          fi
       :: relay == refuses_data || (relay == refuses_odd_data && d == 0) ->
          work[d] = later; p[i].begun = 3;
          if
          :: p[i].state == closed || p[i].state == checking -> p[i].failed = p[i].failed | (1 << d); count(delivery)
          :: else
          fi
       :: else ->
          work[d] = sent; p[i].begun = 3; p[i].sessions = 0; p[i].failed = 0; accepted = (hold != none)
       fi;
       d = 3
     }
  od
}

inline write_hold() {             /* compare-and-set */
  if
  :: p[i].write == put && hold == none ->
     assert(was_bad);                                                            /* ODD */
     hold = p[i].kind; hold_age = 0; changed()
  :: p[i].write == extend && p[i].fresh -> hold = p[i].kind; hold_age = 0; changed()
  :: p[i].write == lift && p[i].fresh ->
     assert(hold != delivery || accepted);                                       /* ACCEPTED */
     gone()
  :: else
  fi;
  p[i].write = nothing; p[i].kind = none
}

inline look() {
  p[i].fresh = (hold != none); p[i].seen_operator = operator_hold;
  if
  :: hold != none ->
     looked[i] = true;
     if
     :: p[i].state == closed -> p[i].state = open; p[i].sessions = 0; p[i].failed = 0
     :: p[i].state == checking ->
        if
        :: p[i].probe != none -> p[i].state = probing
        :: else -> p[i].state = open
        fi;
        settle(i); p[i].sessions = 0; p[i].failed = 0
     :: else
     fi
  :: else ->
     if
     :: p[i].state == open || p[i].state == probing -> p[i].state = closed
     :: else
     fi
  fi
}

inline give_lease_back() {
  if
  :: p[i].leased -> p[i].leased = false; lease = 0
  :: else
  fi
}

inline start_probe() {            /* the script that takes the lease also reads the hold */
  if
  :: lease == 0 -> lease = i + 1; p[i].leased = true; /* ONE LEASE */
     look();
     if
     :: p[i].state == checking ->
        assert(p[0].probe == none && p[1].probe == none);                        /* ALONE */
        p[i].probe = session
     :: p[i].state == open && hold == session ->
        assert(p[0].probe == none && p[1].probe == none);                        /* ALONE */
        p[i].state = probing; p[i].probe = session
     :: p[i].state == open && hold == delivery && p[i].begun == 3 && !p[i].seen_operator && (work[0] == due || work[1] == due || work[2] == due) ->
        if /* the next in line; a delivery that a probe has used stands behind the others */
        :: work[0] == due -> p[i].begun = 0
        :: work[0] != due && work[1] == due -> p[i].begun = 1
        :: work[0] != due && work[1] != due -> p[i].begun = 2
        fi;
        assert(p[0].probe == none && p[1].probe == none);                        /* ALONE */
        work[p[i].begun] = busy; p[i].state = probing; p[i].probe = delivery
     :: else -> give_lease_back()
     fi
  :: lease != 0 && p[i].state == checking && !p[i].tried -> p[i].tried = true
  :: lease != 0 && p[i].state == checking && p[i].tried -> settle(i); p[i].state = closed /* WAITS NO LONGER */
  :: else
  fi
}

inline refused(k) {
  if
  :: p[i].state == probing -> p[i].state = open; p[i].write = extend; p[i].kind = k /* A REFUSED PROBE EXTENDS */
  :: else -> open_hold(k)
  fi
}

inline answer_probe() {
  if
  :: p[i].probe == session ->
     if
     :: relay == down || relay == refuses_mail -> refused(session)
     :: else ->
        settle(i);
        if
        :: p[i].state == probing && (hold != delivery || !p[i].fresh) -> p[i].state = closed; p[i].write = lift /* A GOOD SESSION */
        :: p[i].state == probing && hold == delivery && p[i].fresh -> p[i].state = open
        :: p[i].state == checking -> p[i].state = closed
        :: else
        fi
     fi
  :: p[i].probe == delivery ->
     if
     :: relay == down || relay == refuses_mail || (relay == refuses_odd_mail && p[i].begun == 0) ->
        work[p[i].begun] = later; refused(session)
     :: relay == refuses_data || (relay == refuses_odd_data && p[i].begun == 0) ->
        work[p[i].begun] = later; /* ANOTHER DELIVERY NEXT TIME */
        refused(delivery)
     :: else ->
        work[p[i].begun] = sent; accepted = (hold != none);
        if
        :: p[i].state == probing -> p[i].state = closed; p[i].write = lift
        :: else
        fi
     fi;
     p[i].begun = 3
  fi;
  p[i].probe = none
}

/* The actor `relays`: writes what the machine wants, looks, probes. */
proctype relays(byte i) {
  do
  :: atomic { p[i].write != nothing -> write_hold(); look(); give_lease_back() } /* WRITE, THEN LOOK */
#ifndef UNKNOWN_RELAY
  :: atomic {
       p[i].write == nothing && p[i].probe != none ->
       if
       :: look()
       :: true
       fi;
       answer_probe();
       if
       :: p[i].write == nothing -> give_lease_back()
       :: else
       fi
     }
#endif
  :: atomic {
       p[i].write == nothing && p[i].probe == none -> look();
#ifndef UNKNOWN_RELAY
       if
       :: p[i].state == checking || p[i].state == open -> start_probe()
       :: else
       fi
#endif
     }
  od
}

/* kill -9 at any step; of process 0, as the two are alike. The claims of what it had begun expire, and its lease does. */
proctype crashes() {
  byte n = 0; byte i = 0;
  do
  :: n < CRASHES ->
     atomic {
       n++;
       if :: p[i].begun != 3 -> work[p[i].begun] = due :: else fi;
       p[i].state = closed; p[i].seen_operator = true; p[i].fresh = false; p[i].write = nothing;
       p[i].kind = none; p[i].probe = none; p[i].leased = false; p[i].begun = 3; p[i].waits = false; p[i].tried = false;
       p[i].sessions = 0; p[i].failed = 0; looked[i] = false
     }
  :: break
  od
}

inline another_mood() {
  if
  :: relay = down
  :: relay = refuses_mail
  :: relay = refuses_data
  :: relay = refuses_odd_mail
  :: relay = refuses_odd_data
  :: relay = well
  fi;
  if
  :: relay == down || relay == refuses_mail || relay == refuses_data -> was_bad = true
  :: else
  fi
}

/* The relay is well in the end, or refuses delivery 0 for good. */
proctype moods() {
  byte n = 0;
  do
  :: n < MOODS -> atomic { n++; another_mood() }
  :: break
  od;
  if
  :: relay = well
  :: relay = refuses_odd_mail
  :: relay = refuses_odd_data
  fi
}

#ifdef OPERATOR
proctype operator() {
  if
  :: skip
  :: atomic { operator_hold = true; operator_says = true };
     atomic { assert(operator_hold == operator_says); operator_hold = false; operator_says = false } /* OPERATOR */
  fi;
  assert(operator_hold == operator_says)                                         /* OPERATOR */
}
#endif

proctype lease_ends() {
  do
  :: atomic { lease != 0 && !p[lease - 1].leased -> lease = 0 } /* RENEWED */
  od
}

proctype comes_back() {           /* 60 s later: when no other is due */
  do
  :: atomic {
       work[0] != due && work[1] != due && work[2] != due && (work[0] == later || work[1] == later || work[2] == later) ->
       if :: work[0] == later -> work[0] = due :: else fi;
       if :: work[1] == later -> work[1] = due :: else fi;
       if :: work[2] == later -> work[2] = due :: else fi
     }
  od
}

#ifndef NO_EXPIRY
proctype hold_ends() {            /* 60 s after the probe that was due; later while a probe is under way */
  do
  :: atomic {
       hold != none && p[0].probe == none && p[1].probe == none ->
       if
#ifdef UNKNOWN_RELAY
       :: hold_age < 2 -> hold_age++
#endif
       :: else -> gone() /* ENDS BY ITSELF */
       fi
     }
  od
}
#endif

init {
  atomic {
    byte i;
    for (i : 0 .. PROCESSES - 1) {
      p[i].kind = none; p[i].probe = none; p[i].seen_operator = true;
      run relays(i);
#ifndef UNKNOWN_RELAY
      run slot(i)
#endif
    }
#ifdef UNKNOWN_RELAY
    hold = session;
#else
    another_mood();
    run moods(); run crashes(); run lease_ends(); run comes_back();
#endif
#ifdef OPERATOR
    run operator();
#endif
#ifndef NO_EXPIRY
    run hold_ends()
#endif
  }
}

ltl others { <> (work[1] == sent && work[2] == sent) }
ltl ends { <> [] (hold == none) }
