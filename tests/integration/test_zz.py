import time
from kit import *
from workers.store import lifecycle
def test_b(world):
    c=world.connection(WORKER, Bounds(statement_timeout_ms=60000)); w=world.admin; w.execute("set statement_timeout=0"); w.execute("set session_replication_role=replica")
    w.execute("insert into coupons select gen_random_uuid(),'spring','u-'||n,2500,now(),null from generate_series(1,500000) n")
    w.execute("update budgets set reserved=1000")
    w.execute("analyze coupons")
    for i in range(8):
        t=time.perf_counter(); r=lifecycle.expire_coupons(c,UUID(int=0),500); print("ACTIVE",r,round((time.perf_counter()-t)*1000,1))
    w.execute("insert into redemptions select coupon_id,gen_random_uuid(),now() from coupons"); w.execute("analyze redemptions")
    w.execute("update campaigns set coupons_valid_until=now()")
    a=UUID(int=0)
    for i in range(10):
        t=time.perf_counter(); r,a=lifecycle.expire_coupons(c,a,500); print("OVER, ALL REDEEMED, SOME RESERVED",r,a,round((time.perf_counter()-t)*1000,1))
    w.execute("delete from redemptions"); w.execute("update budgets set budget=500000*2500,reserved=500000*2500"); w.execute("insert into ledger(batch_id,account,delta) values (gen_random_uuid(),'x:y',1)") if 0 else None
    a=UUID(int=0)
    for i in range(4):
        t=time.perf_counter(); r,a=lifecycle.expire_coupons(c,a,500); print("DUE",r,a,round((time.perf_counter()-t)*1000,1))
