import sys; sys.path.insert(0,'/work/main/tests/integration')
from kit import *
from postgres_proxy import PostgresProxy
def test_a(world):
    with PostgresProxy(world.dsn) as p:
        it=world.intake(dsn=p.dsn); pr=world.processor(dsn=p.dsn)
        for n in (1,1,1,1,500,500,1,1):
            b=[order(f"u{i}",lines=(("tea",1),("bun",1))) for i in range(n)] 
            p.messages.clear(); a=it.submit(b); print(n,'submit',p.statements,p.round_trips,dict(p.messages))
            p.messages.clear(); r=pr.run(ids_of(b)); print(n,'run',p.statements,p.round_trips,dict(p.messages), r.outcomes)
    world.assert_clean()
