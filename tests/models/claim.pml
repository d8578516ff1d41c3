/* One delivery: claim, begin, finish and release, with OWNERS owners that crash or are paused at any step.

   An atomic block is one script (galaxy_mail/storage/operations/<name>.lua), with what the domain decided before it.
   The claim of a dead owner expires at some
   time, that of a slow one at any time. The limits on losses and retries are smaller here.

   Checked, by `assert`:
     ONCE     the end of the delivery is recorded once
     FENCE    an owner whose claim another has taken writes nothing
     COPIES   the relay gets a second copy only after an attempt whose outcome is recorded as unknown
   and as liveness, with weak fairness:
     ends     the delivery ends once there are no more faults

   tests/models/test_models.py edits single lines of this file: each edit must break one of these properties. */

#define OWNERS 2
#define FAULTS 2                  /* crashes and stops */
#define SLOW 2                    /* owners that are paused until their claim has expired */
#define RETRIES 1
#define BEGUN_LOSSES_MAX 2
#define LOSSES_MAX 4

byte claim = 0;                   /* mail:attempt_claims: the token; 0: not claimed */
byte sequence = 0;                /* mail:claim_sequence */
bool expired = true;              /* the score in the schedule is in the past: due, or the claim has expired */
byte losses = 0;
bool begun = false;               /* the attempt is in progress */
byte begun_losses = 0;
byte retries_used = 0;
bool terminal = false;
bool unknown = false;             /* an attempt was recorded with an unknown outcome */

byte faults = 0;
byte copies = 0;                  /* messages that the relay took */
byte slow = 0;                    /* claims that expired although their owner lives */
bool orphan = false;              /* the claim's owner is dead */

inline end() {
  assert(!terminal);                                                             /* ONCE */
  terminal = true
}

inline crash() {
  if
  :: faults < FAULTS -> atomic { faults++; orphan = orphan || claim == token }; goto again
  :: true
  fi
}

active [OWNERS] proctype owner() {
  byte token; bool lost; bool sent; bool owns;
again:
  token = 0; lost = false; sent = false; owns = false;
  atomic {                        /* claim */
    if
    :: terminal -> goto done
    :: !terminal && expired ->
       if
       :: claim != 0 -> losses++
       :: else
       fi;
       sequence++; token = sequence; claim = token; expired = false; orphan = false;
       lost = begun || losses >= LOSSES_MAX; owns = true
    fi
  }
  crash();
  if
  :: lost ->
     atomic {                     /* finish, with conclude_lost_owner */
       if
       :: claim == token ->
          claim = 0; expired = true;
          if
          :: begun -> begun = false; begun_losses++; unknown = true /* UNKNOWN */
          :: else
          fi;
          if
          :: begun_losses >= BEGUN_LOSSES_MAX || losses >= LOSSES_MAX -> end()
          :: else
          fi
       :: else
       fi
     }
     goto again
  :: else
  fi;
  atomic {                        /* begin */
    if
    :: claim == token && !expired -> begun = true /* BEGIN */
    :: else -> owns = false
    fi
  }
  if
  :: !owns -> goto again
  :: else
  fi;
  crash();
  if
  :: faults < FAULTS ->           /* a stop, before the relay can have the message */
     atomic {                     /* release */
       faults++;
       if
       :: claim == token -> claim = 0; begun = false; expired = true
       :: else
       fi
     }
     goto again
  :: true
  fi;
  if
  :: atomic {
       assert(copies == 0 || unknown);                                           /* COPIES */
       copies++; sent = true
     }
     crash()
  :: true                         /* the relay refuses it for now */
  fi;
  atomic {                        /* finish */
    if
    :: claim == token -> /* FINISH */
       assert(claim == token);                                                   /* FENCE */
       claim = 0; begun = false;
       if
       :: sent -> end()
       :: !sent && retries_used == RETRIES -> end()
       :: else -> retries_used++; expired = true
       fi
    :: else
    fi
  }
  goto again;
done:
  skip
}

active proctype clock() {
  do
  :: atomic { claim != 0 && !expired && orphan -> expired = true } /* EXPIRES */
  :: atomic { claim != 0 && !expired && !orphan && slow < SLOW -> slow++; expired = true }
  :: terminal -> break
  od
}

ltl ends { <> terminal }
